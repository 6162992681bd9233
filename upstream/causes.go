package upstream

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"token-sidecar/internal/health"
)

// The causes other than those of the network and statuses.
const (
	causeNoToken    = "answer without a usable token"
	causeRedirect   = "redirect"
	causeOurRequest = "request cannot be built"
	causeBare       = "401 without errorCode"
	causeConcurrent = "UPSTREAM_MAX_CONCURRENT reached"
	causeFleetLimit = "UPSTREAM_CALLS_PER_MINUTE reached"
)

// Cause says in a few words why the call failed. The causes form a short list and repeat nothing that a caller sent, so
// they are suitable for metrics. The cause of a call that did not go out is the cause of what held it back.
func (e *Error) Cause() string {
	switch {
	case e.cause != "":
		return e.cause
	case e.Status == 0:
		return e.Kind.String()
	case slices.Contains(ErrorCodes(), e.Code):
		return statusNumber(e.Status) + " " + e.Code
	case isBare(e.Status, e.Code):
		return causeBare
	default:
		return strings.TrimSpace(statusNumber(e.Status) + " " + http.StatusText(e.Status))
	}
}

// Causes lists why calls fail, except for causes about TLS and most statuses.
func Causes() []string {
	return append(health.NetworkCauses(), causeNoToken, causeRedirect, causeOurRequest, causeConcurrent, causeFleetLimit,
		"401 INVALID_CLIENT_ID", "401 INVALID_CLIENT_ID_OR_SECRET", causeBare, "429 Too Many Requests")
}

// statusNumber hides the digits of an unregistered status.
func statusNumber(status int) string {
	if http.StatusText(status) == "" {
		return fmt.Sprintf("%dxx", status/100)
	}
	return fmt.Sprint(status)
}

// Remedy returns what an operator can do about a cause.
func Remedy(cause string) string {
	switch {
	case strings.HasPrefix(cause, "TLS: unknown authority"):
		return "set HUMANAPI_CA_FILE to the authority's certificate, or look for a proxy that breaks TLS open"
	case strings.HasPrefix(cause, "TLS: "):
		return "check HUMANAPI_AUTH_URL, its certificate and the proxies on the way"
	case cause == "host name not found", cause == "DNS fails":
		return "check HUMANAPI_AUTH_URL and the cluster's DNS"
	case cause == health.TimedOut:
		return "check status.humanapi.co, the network policy and the egress proxy; raise UPSTREAM_TIMEOUT if it is only slow"
	case strings.HasPrefix(cause, "connection "), cause == "no route to host":
		return "check HUMANAPI_AUTH_URL, the network policy and the egress proxy"
	case strings.HasPrefix(cause, "401 "):
		return "set the right HUMANAPI_CLIENT_ID and client secret; a changed HUMANAPI_CLIENT_SECRET_FILE is used without a restart"
	case strings.HasPrefix(cause, "429 "):
		return "ask less: set UPSTREAM_CALLS_PER_MINUTE to what the auth service allows"
	case cause == causeRedirect:
		return "check HUMANAPI_AUTH_URL: redirects are never followed"
	case cause == causeNoToken:
		return "check HUMANAPI_AUTH_URL: something else than the auth service may answer, such as a proxy's sign-in page"
	case cause == causeFleetLimit:
		return "raise UPSTREAM_CALLS_PER_MINUTE if the auth service allows more"
	default:
		return "check status.humanapi.co, and tell its support the X-Humanapi-Request-Id of a failed call"
	}
}
