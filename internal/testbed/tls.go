package testbed

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Certificate makes a self-signed certificate for those addresses and names, or for 127.0.0.1, and returns its files.
func Certificate(t testing.TB, hosts ...string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		// Certificates with the same subject would be mistaken for each other.
		SerialNumber: serial, Subject: pkix.Name{CommonName: "test " + serial.String()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	if len(hosts) == 0 {
		hosts = []string{"127.0.0.1"}
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return WriteFile(t, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))),
		WriteFile(t, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
}

// StartTLSRedis starts a redis-server that accepts only TLS, with that certificate. It reads the files at each start.
func StartTLSRedis(t testing.TB, cert, key string, args ...string) *Redis {
	t.Helper()
	Needs(t, "redis-server")
	r := &Redis{Addr: FreeAddr(t), t: t, dir: t.TempDir(), tls: true}
	_, port, _ := net.SplitHostPort(r.Addr)
	r.args = append([]string{
		"--port", "0", "--tls-port", port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert,
		"--tls-auth-clients", "no",
	}, args...)
	r.Start()
	t.Cleanup(r.Kill)
	return r
}

// StartTLSClusterNode starts a cluster of one node, which announces itself as 127.0.0.1, and returns the URL that
// reaches it by the name host.
func StartTLSClusterNode(t testing.TB, cert, key, host string) (url string) {
	t.Helper()
	_, bus, _ := net.SplitHostPort(FreeAddr(t))
	node := StartTLSRedis(t, cert, key, "--cluster-enabled", "yes", "--cluster-port", bus, "--tls-cluster", "yes",
		"--cluster-announce-ip", "127.0.0.1")
	client := node.Client()
	if err := client.Do(t.Context(), "CLUSTER", "ADDSLOTSRANGE", 0, 16383).Err(); err != nil {
		t.Fatal(err)
	}
	Until(t, "the cluster is complete", func() bool {
		return strings.Contains(client.ClusterInfo(t.Context()).Val(), "cluster_state:ok")
	})
	_, port, _ := net.SplitHostPort(node.Addr)
	return "rediss://" + net.JoinHostPort(host, port)
}

// A TLSSentinel is a sentinel at 127.0.0.2 that watches a master at 127.0.0.1, both with TLS and passwords of their
// own.
type TLSSentinel struct {
	// URL contains the sentinel's password, but not the master's.
	URL string
	// MasterPassword is that of the master.
	MasterPassword string
	// CAFile contains the certificates of both.
	CAFile string
}

// StartTLSSentinel starts both. The certificate of the master is for masterHost, which is correct if it is 127.0.0.1.
func StartTLSSentinel(t testing.TB, masterHost string) *TLSSentinel {
	t.Helper()
	s := &TLSSentinel{MasterPassword: "of-the-master"}
	masterCert, masterKey := Certificate(t, masterHost)
	sentinelCert, sentinelKey := Certificate(t, "127.0.0.2")
	s.CAFile = WriteFile(t, "ca.pem", ReadFile(t, masterCert)+ReadFile(t, sentinelCert))
	master := StartTLSRedis(t, masterCert, masterKey, "--requirepass", s.MasterPassword)
	host, port, _ := net.SplitHostPort(master.Addr)

	_, own, _ := net.SplitHostPort(FreeAddr(t))
	node := &Redis{Addr: net.JoinHostPort("127.0.0.2", own), t: t, tls: true}
	node.conf = WriteFile(t, "sentinel.conf", strings.Join([]string{
		fmt.Sprintf("sentinel monitor mymaster %s %s 1", host, port), "sentinel auth-pass mymaster " + s.MasterPassword,
		"requirepass of-the-sentinel", "tls-port " + own, "tls-cert-file " + sentinelCert, "tls-key-file " + sentinelKey,
		"tls-ca-cert-file " + s.CAFile, "tls-auth-clients no", "tls-replication yes", "",
	}, "\n"))
	node.dir = filepath.Dir(node.conf)
	node.args = []string{"--port", "0", "--bind", "127.0.0.2", "--sentinel"}
	node.Start()
	t.Cleanup(node.Kill)
	s.URL = "rediss://:of-the-sentinel@" + node.Addr + "?master_name=mymaster"
	return s
}

// dials reports whether there is a listener at addr.
func dials(addr string) error {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(context.Background(), "tcp", addr)
	if err != nil {
		return err
	}
	return conn.Close()
}
