package web

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

// access decides who may see events and arguments: clients that have
// authenticated themselves, and clients on this host.
type access struct {
	webConfigFile string
	anyoneRuns    bool // --ondemand.allow-unauthenticated
}

// errRunsRestricted heads every refusal of a run.
var errRunsRestricted = errors.New("runs are for clients on this host and for clients that authenticate themselves " +
	"(basic_auth_users or client certificates in --web.config.file), or for all with --ondemand.allow-unauthenticated")

// checkRun returns nil if the client may start runs and see them, else what
// would allow it.
func (a access) checkRun(r *http.Request) error {
	if a.anyoneRuns || a.authenticated(r) {
		return nil
	}
	if err := local(r); err != nil {
		return fmt.Errorf("%w: %w", errRunsRestricted, err)
	}
	return nil
}

// errForeign refuses what a page of another site makes a browser ask.
var errForeign = errors.New("this request was made by another site's page")

// foreign tells whether the page of another site, or of another port, made the
// request. A browser bears its user's password, and is on his host.
func foreign(r *http.Request) error {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
	default:
		return errForeign
	}
	if isCrossSite(r) {
		return errForeign
	}
	return nil
}

// who is the client as the log calls it.
func (a access) who(r *http.Request) string {
	if !a.authenticated(r) {
		return "unauthenticated " + r.RemoteAddr
	}
	if user, _, ok := r.BasicAuth(); ok {
		return user
	}
	return "certificate " + visible(r.TLS.VerifiedChains[0][0].Subject.String())
}

// errRestricted heads every refusal.
var errRestricted = errors.New("events are shown to clients on this host and to clients that " +
	"authenticate themselves (basic_auth_users or client certificates in --web.config.file)")

// check returns nil if the client may see events, else what would allow it.
func (a access) check(r *http.Request) error {
	if a.authenticated(r) {
		return nil
	}
	if err := local(r); err != nil {
		return fmt.Errorf("%w: %w", errRestricted, err)
	}
	return nil
}

// webConfig holds the keys of the exporter-toolkit's web config file that
// make it authenticate clients.
type webConfig struct {
	Users map[string]string `yaml:"basic_auth_users"`
	TLS   struct {
		ClientAuth   string `yaml:"client_auth_type"`
		ClientCAFile string `yaml:"client_ca_file"`
		ClientCA     string `yaml:"client_ca"`
	} `yaml:"tls_server_config"`
}

// authenticated tells whether the exporter-toolkit made sure who the client
// is. The file alone does not prove it: the toolkit reads it a moment before,
// and turns TLS on at the start only. So the request must bear what the file
// asks for, too. The password has been verified by the toolkit.
func (a access) authenticated(r *http.Request) bool {
	config, err := readWebConfig(a.webConfigFile)
	if err != nil {
		return false
	}
	if user, _, ok := r.BasicAuth(); ok {
		if _, known := config.Users[user]; known {
			return true
		}
	}
	return config.verifiesCertificates() && r.TLS != nil && len(r.TLS.VerifiedChains) > 0
}

func readWebConfig(path string) (webConfig, error) {
	var config webConfig
	content, err := os.ReadFile(path)
	if err != nil {
		return webConfig{}, err
	}
	if err := yaml.Unmarshal(content, &config); err != nil {
		return webConfig{}, err
	}
	return config, nil
}

// verifiesCertificates tells whether only holders of certificates of the
// operator's own authority get in. Without one Go takes the system's roots,
// that is anybody's certificate.
func (c webConfig) verifiesCertificates() bool {
	return c.TLS.ClientAuth == "RequireAndVerifyClientCert" && (c.TLS.ClientCAFile != "" || c.TLS.ClientCA != "")
}

// local returns nil if the request was made on this host, by a program or by
// a page of the exporter itself, else the reason for the doubt.
func local(r *http.Request) error {
	switch {
	case !overUnixSocket(r) && !isLoopback(r.RemoteAddr):
		return errors.New("this client is on another host")
	case proxyHeader(r.Header) != "":
		return fmt.Errorf("this request came through a proxy (%s)", proxyHeader(r.Header))
	case !r.ProtoAtLeast(1, 1):
		// nginx asks so by default, with our own address as Host and
		// without any header that would tell.
		return errors.New("this request may have come through a proxy (HTTP/1.0)")
	case !isLocalName(r.Host):
		// A name of the attacker's that resolves to 127.0.0.1 makes a
		// browser on this host ask for the attacker's page.
		return errors.New("the request must name localhost or a loopback address as its host")
	case isCrossSite(r):
		return errors.New("this request was made by another site's page")
	}
	return nil
}

func overUnixSocket(r *http.Request) bool {
	address, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && address.Network() == "unix"
}

func isLoopback(remote string) bool {
	address, err := netip.ParseAddrPort(remote)
	return err == nil && address.Addr().IsLoopback()
}

// proxyHeader returns the name of a header that a reverse proxy adds. One on
// this host makes every client look local.
func proxyHeader(header http.Header) string {
	for _, name := range []string{"Forwarded", "Via", "X-Real-Ip"} {
		if len(header[name]) > 0 {
			return name
		}
	}
	for name := range header {
		if strings.HasPrefix(name, "X-Forwarded") {
			return visible(name)
		}
	}
	return ""
}

// isLocalName tells whether a Host header, with or without a port, names this
// host so that no DNS server has a say in it (RFC 6761, 6.3).
func isLocalName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	} else if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}

// isCrossSite tells whether a browser says that the page of another site, or
// of another port of this host, made the request.
func isCrossSite(r *http.Request) bool {
	if r.Header.Get("Sec-Fetch-Site") == "cross-site" {
		return true
	}
	if len(r.Header["Origin"]) == 0 {
		return false
	}
	origin, err := url.Parse(r.Header.Get("Origin"))
	return err != nil || !strings.EqualFold(origin.Host, r.Host) || origin.Host == ""
}
