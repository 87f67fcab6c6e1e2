package web

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	toolkit "github.com/prometheus/exporter-toolkit/web"
)

const testUsers = `basic_auth_users: {ann: "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi"}` + "\n"

// serve runs the handler behind the exporter-toolkit, as the exporter does,
// and returns its address.
func serve(t *testing.T, listener net.Listener, webConfigFile string) string {
	t.Helper()
	config := newConfig(newFake())
	config.WebConfigFile = webConfigFile
	server := &http.Server{Handler: Handler(config)}
	served := make(chan error, 1)
	go func() {
		served <- toolkit.Serve(listener, server, &toolkit.FlagConfig{WebConfigFile: &webConfigFile}, slog.New(slog.DiscardHandler))
	}()
	t.Cleanup(func() {
		server.Close()
		listener.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	return listener.Addr().String()
}

func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

func write(t *testing.T, file, content string) string {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// askForEvents returns the status of the answer to a request that seems to
// have come through a proxy, so that being local does not help.
func askForEvents(t *testing.T, client *http.Client, base string, change func(*http.Request)) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+"/tools/execsnoop/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Forwarded-For", "192.0.2.1")
	change(r)
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode
}

func TestToolkitBasicAuth(t *testing.T) {
	file := write(t, filepath.Join(t.TempDir(), "web.yml"), testUsers)
	base := "http://" + serve(t, listen(t, "tcp", "127.0.0.1:0"), file)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	login := func(password string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth("ann", password) }
	}
	if code := askForEvents(t, client, base, login("fakepassword")); code != 200 {
		t.Errorf("right password: %d", code)
	}
	if code := askForEvents(t, client, base, login("wrong")); code != 401 {
		t.Errorf("wrong password: %d", code)
	}
	write(t, file, "{}\n")
	if code := askForEvents(t, client, base, login("fakepassword")); code != 403 {
		t.Errorf("password that nobody asks for any more: %d", code)
	}
}

func TestToolkitClientCertificate(t *testing.T) {
	dir := t.TempDir()
	authority := newCertificate(t, nil)
	ca := write(t, filepath.Join(dir, "ca.pem"), pemBlock("CERTIFICATE", authority.Certificate[0]))
	own := newCertificate(t, &authority)
	key, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	file := write(t, filepath.Join(dir, "web.yml"), "tls_server_config:\n"+
		"  cert_file: "+write(t, filepath.Join(dir, "cert.pem"), pemBlock("CERTIFICATE", own.Certificate[0]))+"\n"+
		"  key_file: "+write(t, filepath.Join(dir, "key.pem"), pemBlock("PRIVATE KEY", key))+"\n"+
		"  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: "+ca+"\n")
	roots := x509.NewCertPool()
	roots.AddCert(authority.Leaf)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: roots, Certificates: []tls.Certificate{newCertificate(t, &authority)},
	}}}
	defer client.CloseIdleConnections()
	base := "https://" + serve(t, listen(t, "tcp", "127.0.0.1:0"), file)
	if code := askForEvents(t, client, base, func(*http.Request) {}); code != 200 {
		t.Errorf("with a certificate: %d", code)
	}

	later := write(t, filepath.Join(dir, "later.yml"), "{}\n")
	base = "http://" + serve(t, listen(t, "tcp", "127.0.0.1:0"), later)
	if code := askForEvents(t, client, base, func(*http.Request) {}); code != 403 {
		t.Errorf("before certificates are asked for: %d", code)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write(t, later, string(content))
	if code := askForEvents(t, client, base, func(*http.Request) {}); code != 403 {
		t.Errorf("plain HTTP, on which the new file has no effect: %d", code)
	}
}

func TestToolkitUnixSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "socket")
	serve(t, listen(t, "unix", socket), "")
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	defer client.CloseIdleConnections()
	if code := askForEvents(t, client, "http://localhost", func(r *http.Request) { r.Header.Del("X-Forwarded-For") }); code != 200 {
		t.Errorf("program on this host: %d", code)
	}
	if code := askForEvents(t, client, "http://localhost", func(*http.Request) {}); code != 403 {
		t.Errorf("through a proxy: %d", code)
	}
}

func pemBlock(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// newCertificate returns a certificate for 127.0.0.1 that issuer signed, or
// with nil an authority that signed itself.
func newCertificate(t *testing.T, issuer *tls.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: "test"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := template, any(key)
	if issuer == nil {
		template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	} else {
		parent, signer = issuer.Leaf, issuer.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}
