package app

import (
	"crypto/x509"
	"errors"
	"sync/atomic"

	"token-sidecar/internal/secret"
)

// roots are the certificates in a PEM file, which may be replaced while the sidecar runs.
type roots struct {
	file    *secret.File // nil: the system's
	current atomic.Pointer[x509.CertPool]
}

// newRoots follows file, which [checkRoots] has accepted; nil means the system's certificates.
func newRoots(file *secret.File) *roots {
	r := &roots{file: file}
	if file != nil {
		read := func() { r.current.Store(parseRoots(file.Text().Reveal())) }
		file.OnChange(read)
		read()
	}
	return r
}

// pool returns the certificates to trust, nil for the system's.
func (r *roots) pool() *x509.CertPool { return r.current.Load() }

// onChange calls fn after each change.
func (r *roots) onChange(fn func()) {
	if r.file != nil {
		r.file.OnChange(fn)
	}
}

func checkRoots(pem string) error {
	if parseRoots(pem) == nil {
		return errors.New("there is no PEM certificate in it; name a file that has some")
	}
	return nil
}

// parseRoots returns nil if pem contains no certificate.
func parseRoots(pem string) *x509.CertPool {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(pem)) {
		return nil
	}
	return pool
}
