package tracing

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// Check reports every variable in environ with an unsupported value. The libraries would only log it.
func Check(environ []string) error {
	_, err := read(environ)
	return err
}

// A config is what the variables say, except for what the libraries read themselves.
type config struct {
	wanted   bool // an endpoint is named, or the exporter otlp
	endpoint string
	timeout  time.Duration
	tls      *tls.Config
}

// Variables returns the names of the variables that have an effect.
func Variables() []string {
	v := parse(nil)
	v.read()
	return append(v.asked, "OTEL_SERVICE_NAME") // read by the library
}

func read(environ []string) (config, error) {
	v := parse(environ)
	c := v.read()
	return c, errors.Join(v.errs...)
}

func (v *variables) read() config {
	disabled, exporter := v.value("OTEL_SDK_DISABLED"), v.value("OTEL_TRACES_EXPORTER")
	v.oneOf(disabled, "true", "false")
	v.oneOf(exporter, "otlp", "none")
	v.oneOf(v.otlp("PROTOCOL"), "http/protobuf", "http/json")
	v.oneOf(v.otlp("COMPRESSION"), "gzip", "none")
	v.checkSampler()
	v.checkHeaders()
	v.checkResource()
	for _, name := range []string{"SCHEDULE_DELAY", "EXPORT_TIMEOUT", "MAX_QUEUE_SIZE", "MAX_EXPORT_BATCH_SIZE"} {
		v.number(v.value("OTEL_BSP_"+name), 1, 0)
	}
	c := config{
		endpoint: v.endpoint(),
		timeout:  time.Duration(v.number(v.otlp("TIMEOUT"), 0, 10_000)) * time.Millisecond,
		tls:      v.tls(),
	}
	named := v.otlp("ENDPOINT").text != ""
	c.wanted = (named || exporter.text == "otlp") && exporter.text != "none" && disabled.text != "true"
	return c
}

// transport returns an HTTP transport with the collector's certificates.
func (c config) transport() *http.Transport {
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: c.tls, ForceAttemptHTTP2: true, IdleConnTimeout: 90 * time.Second,
		// Otherwise a silent connection would be used without end (golang/go#59690).
		HTTP2: &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second},
	}
}

// A value is the value of a variable, empty if it is not set.
type value struct{ name, text string }

// variables collect the mistakes in them, and which ones were read.
type variables struct {
	given map[string]string
	errs  []error
	asked []string
}

func parse(environ []string) *variables {
	given := map[string]string{}
	for _, pair := range environ {
		if name, text, ok := strings.Cut(pair, "="); ok {
			given[name] = strings.TrimSpace(text)
		}
	}
	return &variables{given: given}
}

func (v *variables) value(name string) value {
	v.asked = append(v.asked, name)
	return value{name, v.given[name]}
}

// otlp returns the exporter's setting with that name: the one for traces, or else the one for all signals.
func (v *variables) otlp(name string) value {
	if own := v.value("OTEL_EXPORTER_OTLP_TRACES_" + name); own.text != "" {
		return own
	}
	return v.value("OTEL_EXPORTER_OTLP_" + name)
}

// wrong notes a mistake. It does not quote the value, which could be a credential in the wrong place.
func (v *variables) wrong(of value, format string, args ...any) {
	v.errs = append(v.errs, fmt.Errorf("%s: "+format, append([]any{of.name}, args...)...))
}

func (v *variables) oneOf(of value, allowed ...string) {
	if of.text != "" && !slices.Contains(allowed, of.text) {
		v.wrong(of, "is not supported; use %s", strings.Join(allowed, " or "))
	}
}

func (v *variables) number(of value, least, standard int) int {
	if of.text == "" {
		return standard
	}
	n, err := strconv.ParseInt(of.text, 10, 32)
	if err != nil || int(n) < least {
		v.wrong(of, "is not understood; use a whole number from %d on", least)
	}
	return int(n)
}

func (v *variables) checkSampler() {
	sampler := v.value("OTEL_TRACES_SAMPLER")
	sampler.text = strings.ToLower(sampler.text)
	v.oneOf(sampler, "always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off",
		"parentbased_traceidratio")
	ratio := v.value("OTEL_TRACES_SAMPLER_ARG")
	if ratio.text == "" || !strings.HasSuffix(sampler.text, "traceidratio") {
		return
	}
	if f, err := strconv.ParseFloat(ratio.text, 64); err != nil || !(f >= 0 && f <= 1) {
		v.wrong(ratio, "is not understood; use a number from 0 to 1")
	}
}

func (v *variables) checkHeaders() {
	headers := v.otlp("HEADERS")
	for pair := range strings.SplitSeq(headers.text, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		name, escaped, _ := strings.Cut(pair, "=")
		content, err := url.PathUnescape(escaped)
		if err != nil || !strings.Contains(pair, "=") || !httpguts.ValidHeaderFieldName(strings.TrimSpace(name)) ||
			!httpguts.ValidHeaderFieldValue(strings.TrimSpace(content)) {
			v.wrong(headers, "must be name=value, separated by commas, the values percent-encoded")
			return
		}
	}
}

func (v *variables) checkResource() {
	attributes := v.value("OTEL_RESOURCE_ATTRIBUTES")
	if attributes.text == "" {
		return
	}
	for pair := range strings.SplitSeq(attributes.text, ",") {
		if !strings.Contains(pair, "=") {
			v.wrong(attributes, "must be name=value, separated by commas")
			return
		}
	}
}

func (v *variables) endpoint() string {
	endpoint := v.otlp("ENDPOINT")
	if endpoint.text == "" {
		return "http://localhost:4318/v1/traces"
	}
	u, err := url.Parse(endpoint.text)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.User != nil || u.RawQuery != "" ||
		u.Fragment != "" {
		v.wrong(endpoint, "must be a URL of the form http://host:4318, without user, password and query")
		return ""
	}
	if !strings.HasSuffix(endpoint.name, "_TRACES_ENDPOINT") {
		u = u.JoinPath("v1/traces")
	}
	return u.String()
}

func (v *variables) tls() *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if authorities := v.otlp("CERTIFICATE"); authorities.text != "" {
		c.RootCAs = x509.NewCertPool()
		if pem, err := os.ReadFile(authorities.text); err != nil || !c.RootCAs.AppendCertsFromPEM(pem) {
			v.wrong(authorities, "there is no PEM certificate in the file; name one that has some")
		}
	}
	certificate, key := v.otlp("CLIENT_CERTIFICATE"), v.otlp("CLIENT_KEY")
	switch {
	case certificate.text == "" && key.text == "":
	case key.text == "":
		v.wrong(key, "is missing beside %s; set both, or neither", certificate.name)
	case certificate.text == "":
		v.wrong(certificate, "is missing beside %s; set both, or neither", key.name)
	default:
		pair, err := tls.LoadX509KeyPair(certificate.text, key.text)
		if err != nil {
			v.wrong(certificate, "no certificate and key in PEM can be read from this file and that of %s", key.name)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c
}
