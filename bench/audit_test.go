package bench

import (
	"encoding/base64"
	"path/filepath"
	"testing"
	"time"

	"token-sidecar/internal/audit"
	"token-sidecar/internal/secret"
	"token-sidecar/internal/testbed"
	"token-sidecar/proxy"
)

// BenchmarkAuditLog is a hit on a connection without a network: on the fast path, by net/http, and with an audit log,
// which rules out the fast path because each answer must wait for its line.
func BenchmarkAuditLog(b *testing.B) {
	auth := testbed.StartAuth(b)
	trail, err := audit.Open(audit.Options{
		Path: filepath.Join(b.TempDir(), "audit.log"),
		Key:  secret.Fixed(base64.StdEncoding.EncodeToString(make([]byte, 32))),
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(trail.Close)
	for _, c := range []struct {
		name       string
		noFastPath bool
		change     func(*proxy.Options)
	}{
		{"off", false, func(*proxy.Options) {}},
		{"off, net-http alone", true, func(*proxy.Options) {}},
		{"on", false, func(o *proxy.Options) { o.Audit = trail }},
	} {
		b.Run(c.name, func(b *testing.B) {
			l := newLocal(b, auth, "", time.Hour, c.change)
			ask := l.served(b, get("user"), proxy.ServerOptions{Handler: l.handler, NoFastPath: c.noFastPath})
			ask()
			b.ReportAllocs()
			for b.Loop() {
				ask()
			}
		})
	}
}
