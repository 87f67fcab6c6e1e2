package web

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// localRequest is one that a program on this host makes.
func localRequest(target string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	r.RemoteAddr = "127.0.0.1:40000"
	r.Host = "localhost:10101"
	return r
}

// header returns a change that sets a header.
func header(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

func host(name string) func(*http.Request) {
	return func(r *http.Request) { r.Host = name }
}

func remote(address string) func(*http.Request) {
	return func(r *http.Request) { r.RemoteAddr = address }
}

func TestLocal(t *testing.T) {
	cases := []struct {
		name   string
		change func(*http.Request)
		want   string // what the refusal speaks of; empty if admitted
	}{
		{"program on this host", func(*http.Request) {}, ""},
		{"anywhere in 127/8", remote("127.8.9.10:1"), ""},
		{"IPv6", remote("[::1]:40000"), ""},
		{"IPv6 with zone", remote("[::1%lo]:40000"), ""},
		{"IPv4 in IPv6", remote("[::ffff:127.0.0.1]:40000"), ""},
		{"another host", remote("192.0.2.1:40000"), "another host"},
		{"another host, IPv6", remote("[2001:db8::1]:40000"), "another host"},
		{"another host, IPv4 in IPv6", remote("[::ffff:192.0.2.1]:40000"), "another host"},
		{"unspecified address", remote("0.0.0.0:1"), "another host"},
		{"no address", remote(""), "another host"},
		{"no port", remote("127.0.0.1"), "another host"},
		{"name instead of address", remote("localhost:1"), "another host"},

		{"Forwarded", header("Forwarded", "for=192.0.2.1"), "(Forwarded)"},
		{"X-Forwarded-For", header("X-Forwarded-For", "192.0.2.1"), "(X-Forwarded-For)"},
		{"X-Forwarded-For, empty", header("X-Forwarded-For", ""), "(X-Forwarded-For)"},
		{"X-Forwarded-For saying local", header("X-Forwarded-For", "127.0.0.1"), "(X-Forwarded-For)"},
		{"X-Forwarded-Host", header("X-Forwarded-Host", "a"), "(X-Forwarded-Host)"},
		{"x-forwarded-proto", header("x-forwarded-proto", "https"), "(X-Forwarded-Proto)"},
		{"X-Real-IP", header("X-Real-IP", "192.0.2.1"), "(X-Real-Ip)"},
		{"Via", header("Via", "1.1 proxy"), "(Via)"},
		{"HTTP/1.0", func(r *http.Request) { r.ProtoMajor, r.ProtoMinor = 1, 0 }, "HTTP/1.0"},
		{"HTTP/2", func(r *http.Request) { r.ProtoMajor, r.ProtoMinor = 2, 0 }, ""},

		{"localhost", host("localhost"), ""},
		{"LOCALHOST.", host("LOCALHOST.:10101"), ""},
		{"name under localhost", host("exporter.localhost:10101"), ""},
		{"127.0.0.1", host("127.0.0.1"), ""},
		{"127.1.2.3 with port", host("127.1.2.3:10101"), ""},
		{"[::1]", host("[::1]"), ""},
		{"[::1] with port", host("[::1]:10101"), ""},
		{"rebound name", host("attacker.example:10101"), "loopback address as its host"},
		{"localhost in front", host("localhost.attacker.example"), "loopback address as its host"},
		{"localhost within a word", host("notlocalhost"), "loopback address as its host"},
		{"address in front", host("127.0.0.1.attacker.example"), "loopback address as its host"},
		{"address of the host", host("192.0.2.1:10101"), "loopback address as its host"},
		{"every address", host("0.0.0.0:10101"), "loopback address as its host"},
		{"no host", host(""), "loopback address as its host"},
		{"user in front", host("localhost@attacker.example"), "loopback address as its host"},

		{"own page", header("Sec-Fetch-Site", "same-origin"), ""},
		{"typed by the user", header("Sec-Fetch-Site", "none"), ""},
		{"another port's link", header("Sec-Fetch-Site", "same-site"), ""},
		{"another site", header("Sec-Fetch-Site", "cross-site"), "another site"},
		{"own origin", header("Origin", "http://localhost:10101"), ""},
		{"another origin", header("Origin", "https://attacker.example"), "another site"},
		{"another port's origin", header("Origin", "http://localhost:3000"), "another site"},
		{"hidden origin", header("Origin", "null"), "another site"},
		{"empty origin", header("Origin", ""), "another site"},
		{"broken origin", header("Origin", "http://[::1"), "another site"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := localRequest("/")
			c.change(r)
			err := access{}.check(r)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.want != "" && err == nil:
				t.Error("admitted")
			case c.want != "" && !strings.Contains(err.Error(), c.want):
				t.Errorf("refusal %q does not speak of %q", err, c.want)
			case c.want != "" && !strings.Contains(err.Error(), "basic_auth_users or client certificates in --web.config.file"):
				t.Errorf("refusal %q does not say how to allow", err)
			}
		})
	}
}

func TestLocalUnixSocket(t *testing.T) {
	for _, peer := range []string{"", "@", "/run/client.sock"} {
		r := localRequest("/")
		r.RemoteAddr = peer
		address := &net.UnixAddr{Name: "/run/exporter.sock", Net: "unix"}
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, address))
		if err := local(r); err != nil {
			t.Errorf("peer %q: %v", peer, err)
		}
		r.Header.Set("X-Forwarded-For", "192.0.2.1")
		if err := local(r); err == nil {
			t.Errorf("peer %q: admitted through a proxy", peer)
		}
	}
}

func TestAuthenticated(t *testing.T) {
	const (
		users    = "basic_auth_users:\n  ann: $2y$10$hash\n"
		required = "tls_server_config:\n  cert_file: c\n  key_file: k\n  client_auth_type: RequireAndVerifyClientCert\n"
	)
	verified := &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{}}}}
	unverified := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{}}}
	cases := []struct {
		name   string
		config string
		user   string
		tls    *tls.ConnectionState
		want   bool
	}{
		{"user", users, "ann", nil, true},
		{"user over TLS", users, "ann", unverified, true},
		{"user among other keys", "http_server_config:\n  http2: false\n" + users, "ann", nil, true},
		{"user whom the toolkit cannot have let in", users, "bob", nil, false},
		{"no user although some are configured", users, "", nil, false},
		{"user although none is configured", "basic_auth_users: {}\n", "ann", nil, false},
		{"certificate", required + "  client_ca_file: ca\n", "", verified, true},
		{"certificate, inline authority", required + "  client_ca: pem\n", "", verified, true},
		{"certificate of anybody", required, "", verified, false},
		{"certificate not verified", required + "  client_ca_file: ca\n", "", unverified, false},
		{"plain HTTP: the file was changed after the start", required + "  client_ca_file: ca\n", "", nil, false},
		{"certificate if given", "tls_server_config:\n  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: ca\n", "", verified, false},
		{"any certificate", "tls_server_config:\n  client_auth_type: RequireAnyClientCert\n  client_ca_file: ca\n", "", verified, false},
		{"TLS only", "tls_server_config:\n  cert_file: c\n  key_file: k\n", "", unverified, false},
		{"empty", "", "ann", verified, false},
		{"not YAML", users + "\t{", "ann", verified, false},
		{"list of users", "basic_auth_users: [ann]\n", "ann", verified, false},
		{"key twice", users + users, "ann", verified, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "web.yml")
			if err := os.WriteFile(file, []byte(c.config), 0o600); err != nil {
				t.Fatal(err)
			}
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.TLS = c.tls
			if c.user != "" {
				r.SetBasicAuth(c.user, "secret")
			}
			err := access{webConfigFile: file}.check(r)
			if got := err == nil; got != c.want {
				t.Errorf("admitted %v, want %v: %v", got, c.want, err)
			}
		})
	}
}

func TestAuthenticatedFollowsTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "web.yml")
	a := access{webConfigFile: file}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.SetBasicAuth("ann", "secret")
	if a.authenticated(r) {
		t.Error("authenticated without a file")
	}
	if err := os.WriteFile(file, []byte("basic_auth_users: {ann: hash}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if !a.authenticated(r) {
		t.Error("not authenticated with the file")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if a.authenticated(r) {
		t.Error("still authenticated after the file went")
	}
	if (access{}).authenticated(r) {
		t.Error("authenticated without a path")
	}
}
