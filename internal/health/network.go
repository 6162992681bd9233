package health

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"syscall"
)

// TimedOut is the cause of an exchange that took too long.
const TimedOut = "no answer in time"

// NetworkCauses lists the results of [NetworkCause], except those about TLS.
func NetworkCauses() []string {
	return []string{
		"host name not found", "DNS fails", TimedOut, "connection refused", "connection reset", "no route to host",
		"connection closed", "connection failed",
	}
}

// NetworkCause returns why an exchange over the network failed, in words from a fixed list.
func NetworkCause(err error) string {
	var (
		dns     *net.DNSError
		timeout interface{ Timeout() bool }
	)
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return "host name not found"
	case errors.As(err, &dns):
		return "DNS fails"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return TimedOut
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection reset"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "no route to host"
	}
	if cause := tlsCause(err); cause != "" {
		return cause
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "connection closed"
	}
	return "connection failed"
}

// tlsCause is empty for errors that are not about TLS.
func tlsCause(err error) string {
	var (
		unknown  x509.UnknownAuthorityError
		host     x509.HostnameError
		invalid  x509.CertificateInvalidError
		verified *tls.CertificateVerificationError
		record   tls.RecordHeaderError
		alert    tls.AlertError
	)
	switch {
	case errors.As(err, &unknown):
		return "TLS: unknown authority"
	case errors.As(err, &host):
		return "TLS: certificate of another host"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "TLS: certificate expired"
	case errors.As(err, &invalid), errors.As(err, &verified):
		return "TLS: certificate not trusted"
	case errors.As(err, &record):
		return "TLS: not spoken by the other side"
	case errors.As(err, &alert):
		return "TLS: refused by the other side"
	default:
		return ""
	}
}
