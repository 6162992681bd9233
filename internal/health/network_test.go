package health

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestNetworkCause(t *testing.T) {
	dial := func(err error) error { return &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", err)} }
	verify := func(err error) error { return &tls.CertificateVerificationError{Err: err} }
	seen := map[string]bool{}
	for _, c := range []struct {
		err  error
		want string
	}{
		{&net.DNSError{IsNotFound: true}, "host name not found"},
		{&net.DNSError{IsTimeout: true}, "DNS fails"},
		{context.DeadlineExceeded, TimedOut},
		{os.ErrDeadlineExceeded, TimedOut},
		{dial(syscall.ECONNREFUSED), "connection refused"},
		{dial(syscall.ECONNRESET), "connection reset"},
		{dial(syscall.EPIPE), "connection reset"},
		{dial(syscall.EHOSTUNREACH), "no route to host"},
		{dial(syscall.ENETUNREACH), "no route to host"},
		{verify(x509.UnknownAuthorityError{}), "TLS: unknown authority"},
		{verify(x509.HostnameError{Certificate: &x509.Certificate{}}), "TLS: certificate of another host"},
		{verify(x509.CertificateInvalidError{Reason: x509.Expired}), "TLS: certificate expired"},
		{verify(x509.CertificateInvalidError{Reason: x509.NotAuthorizedToSign}), "TLS: certificate not trusted"},
		{verify(io.EOF), "TLS: certificate not trusted"},
		{tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, "TLS: not spoken by the other side"},
		{tls.AlertError(42), "TLS: refused by the other side"},
		{io.EOF, "connection closed"},
		{io.ErrUnexpectedEOF, "connection closed"},
		{errors.New("user-4711"), "connection failed"},
	} {
		if got := NetworkCause(fmt.Errorf("wrapped: %w", c.err)); got != c.want {
			t.Errorf("%v is told as %q, not %q", c.err, got, c.want)
		}
		seen[c.want] = true
	}
	for cause := range seen {
		if !strings.HasPrefix(cause, "TLS: ") && !slices.Contains(NetworkCauses(), cause) {
			t.Errorf("%q is not listed", cause)
		}
	}
	for _, cause := range NetworkCauses() {
		if !seen[cause] {
			t.Errorf("%q is not tested", cause)
		}
	}
}
