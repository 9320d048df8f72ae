package registry

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/strake-containers/strake/internal/sys"
)

// endpoint is one place that may serve a registry: a mirror or the registry
// itself. Endpoints are tried in order.
type endpoint struct {
	base     url.URL // scheme, host and the path up to and including /v2
	upstream bool    // the registry itself: it may see the caller's credentials
	resolve  bool    // trusted to say what a tag means
	pull     bool
	push     bool
	refers   bool        // trusted to say what refers to a manifest
	fallback bool        // the endpoint before it, another way: for when that cannot be spoken to
	path     string      // of the repository there; "" is the reference's own
	exact    bool        // the address is the mirror's own: it is not told for whom
	tls      *tls.Config // nil: the system's roots
	header   http.Header
}

// maxHostsFile bounds hosts.toml and each certificate.
const maxHostsFile = 1 << 20

// hostTable is one [host."…"] of hosts.toml, and its top level.
type hostTable struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`     // a path or a list of them
	Client       any            `toml:"client"` // a path, a list of them, or of [cert, key] pairs
	SkipVerify   bool           `toml:"skip_verify"`
	Header       map[string]any `toml:"header"` // a value or a list of them
	OverridePath bool           `toml:"override_path"`
}

type hostsFile struct {
	Server string `toml:"server"`
	hostTable
	Host map[string]hostTable `toml:"host"`
}

// endpoints lists where the registry domain is to be asked, by the certs.d
// trees; the files are read each time, so that an edit needs no restart.
func endpoints(configPath, domain string) ([]endpoint, error) {
	for dir := range strings.SplitSeq(configPath, ":") {
		if dir == "" {
			continue
		}
		for _, name := range hostDirs(domain) {
			d := filepath.Join(dir, name)
			if _, err := os.Stat(d); errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				return nil, fmt.Errorf("registry %s: %w", domain, err)
			}
			found, err := readHostDir(d, domain)
			if err != nil {
				return nil, fmt.Errorf("registry %s: %w", domain, err)
			}
			return found, nil
		}
	}
	return defaultEndpoints(domain, nil), nil
}

// hostDirs are the directory names for a domain, most specific first. The form
// host_port_ is for file systems without colons.
func hostDirs(domain string) []string {
	names := []string{domain}
	if host, port, err := net.SplitHostPort(domain); err == nil {
		names = append(names, host+"_"+port+"_")
	}
	return append(names, "_default")
}

// defaultEndpoints is the registry itself. On a loopback address, as in docker,
// neither encryption nor a known certificate is asked for.
func defaultEndpoints(domain string, conf *tls.Config) []endpoint {
	ep := endpoint{upstream: true, resolve: true, pull: true, push: true, refers: true, tls: conf}
	ep.base = url.URL{Scheme: "https", Host: upstreamHost(domain), Path: "/v2"}
	if conf != nil || !isLoopback(domain) {
		return []endpoint{ep}
	}
	plain := ep
	plain.base.Scheme = "http"
	ep.tls, ep.fallback = &tls.Config{InsecureSkipVerify: true}, true
	return []endpoint{plain, ep}
}

// upstreamHost is the host that serves a domain: docker.io is a name only.
func upstreamHost(domain string) string {
	if domain == defaultDomain {
		return "registry-1.docker.io"
	}
	return domain
}

func isLoopback(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return ip != nil && ip.IsLoopback()
}

func readHostDir(dir, domain string) ([]endpoint, error) {
	file := filepath.Join(dir, "hosts.toml")
	data, err := sys.ReadFile(file, maxHostsFile)
	if errors.Is(err, fs.ErrNotExist) {
		conf, err := dockerCertificates(dir)
		if err != nil {
			return nil, err
		}
		return defaultEndpoints(domain, conf), nil
	}
	if err != nil {
		return nil, err
	}
	return parseHosts(data, file, domain)
}

func parseHosts(data []byte, file, domain string) ([]endpoint, error) {
	var f hostsFile
	dec := toml.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&f); err != nil {
		var at *toml.DecodeError
		if errors.As(err, &at) {
			line, col := at.Position()
			return nil, fmt.Errorf("%s:%d:%d: %w", file, line, col, err)
		}
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	var all []endpoint
	for _, name := range hostOrder(data, f.Host) {
		ep, err := f.Host[name].endpoint(name, filepath.Dir(file))
		if err != nil {
			return nil, fmt.Errorf("%s: host %q: %w", file, name, err)
		}
		all = append(all, ep)
	}
	// Without a server line the registry's own address comes last.
	if f.Server == "" && f.hostTable.isZero() {
		return append(all, defaultEndpoints(domain, nil)...), nil
	}
	server := f.Server
	if server == "" {
		server = defaultEndpoints(domain, nil)[0].base.String()
	}
	ep, err := f.endpoint(server, filepath.Dir(file))
	if err != nil {
		return nil, fmt.Errorf("%s: server %q: %w", file, server, err)
	}
	ep.upstream = true
	for i := range all { // a mirror with the registry's own address is the registry
		all[i].upstream = all[i].base.Host == ep.base.Host
	}
	return append(all, ep), nil
}

func (t hostTable) isZero() bool {
	return t.Capabilities == nil && t.CA == nil && t.Client == nil && !t.SkipVerify && t.Header == nil && !t.OverridePath
}

// hostOrder gives the keys of hosts in the order of the file, which is the order
// to try them in and which a map forgets.
func hostOrder(data []byte, hosts map[string]hostTable) []string {
	var order []string
	p := unstable.Parser{}
	p.Reset(data)
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.Table && e.Kind != unstable.KeyValue {
			continue
		}
		key := e.Key()
		if !key.Next() || string(key.Node().Data) != "host" || !key.Next() {
			continue
		}
		name := string(key.Node().Data)
		if _, known := hosts[name]; known && !slices.Contains(order, name) {
			order = append(order, name)
		}
	}
	var rest []string // inline tables, whose keys the loop does not see
	for name := range hosts {
		if !slices.Contains(order, name) {
			rest = append(rest, name)
		}
	}
	slices.Sort(rest)
	return append(order, rest...)
}

func (t hostTable) endpoint(address, dir string) (endpoint, error) {
	if !strings.Contains(address, "://") {
		scheme := "https"
		if isLoopback(address) || strings.HasSuffix(address, ":80") {
			scheme = "http"
		}
		address = scheme + "://" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		return endpoint{}, err
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return endpoint{}, fmt.Errorf("want http://HOST or https://HOST, have %q", address)
	}
	ep := endpoint{base: url.URL{Scheme: u.Scheme, Host: upstreamHost(u.Host)}}
	switch p := path.Clean("/" + u.Path); {
	case t.OverridePath:
		ep.base.Path = strings.TrimSuffix(p, "/")
	case p == "/":
		ep.base.Path = "/v2"
	case strings.HasSuffix(p, "/v2"):
		ep.base.Path = p
	default:
		ep.base.Path = p + "/v2"
	}
	if t.Capabilities == nil {
		ep.resolve, ep.pull, ep.push, ep.refers = true, true, true, true
	}
	for _, c := range t.Capabilities {
		switch c {
		case "resolve":
			ep.resolve = true
		case "pull":
			ep.pull = true
		case "push":
			ep.push = true
		case "referrers":
			ep.refers = true
		default:
			return endpoint{}, fmt.Errorf("unknown capability %q: use pull, resolve, push, referrers", c)
		}
	}
	if ep.header, err = t.headers(); err != nil {
		return endpoint{}, err
	}
	ep.tls, err = t.tlsConfig(dir)
	return ep, err
}

func (t hostTable) headers() (http.Header, error) {
	h := http.Header{}
	for name, v := range t.Header {
		values, err := stringList(v)
		if err != nil {
			return nil, fmt.Errorf("header %q: %w", name, err)
		}
		h[http.CanonicalHeaderKey(name)] = values
	}
	return h, nil
}

func (t hostTable) tlsConfig(dir string) (*tls.Config, error) {
	cas, err := stringList(t.CA)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	pairs, err := clientPairs(t.Client)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	if cas == nil && pairs == nil && !t.SkipVerify {
		return nil, nil
	}
	return loadTLS(dir, cas, pairs, t.SkipVerify)
}

func loadTLS(dir string, cas []string, pairs [][2]string, skipVerify bool) (*tls.Config, error) {
	conf := &tls.Config{InsecureSkipVerify: skipVerify}
	within := func(p string) string {
		if filepath.IsAbs(p) {
			return p
		}
		return filepath.Join(dir, p)
	}
	for _, ca := range cas {
		pem, err := sys.ReadFile(within(ca), maxHostsFile)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		if conf.RootCAs == nil {
			if conf.RootCAs, err = x509.SystemCertPool(); err != nil {
				conf.RootCAs = x509.NewCertPool() // a machine without roots still has this one
			}
		}
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca: %s: no PEM certificate in it", within(ca))
		}
	}
	for _, pair := range pairs {
		cert, err := tls.LoadX509KeyPair(within(pair[0]), within(pair[1]))
		if err != nil {
			return nil, fmt.Errorf("client: %w", err)
		}
		conf.Certificates = append(conf.Certificates, cert)
	}
	return conf, nil
}

// dockerCertificates reads Docker's form: every *.crt is an authority, every
// NAME.cert with NAME.key a client certificate. It is nil if there is none.
func dockerCertificates(dir string) (*tls.Config, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var cas []string
	var pairs [][2]string
	for _, e := range entries {
		if base, ok := strings.CutSuffix(e.Name(), ".cert"); ok {
			pairs = append(pairs, [2]string{e.Name(), base + ".key"})
		} else if strings.HasSuffix(e.Name(), ".crt") {
			cas = append(cas, e.Name())
		}
	}
	if cas == nil && pairs == nil {
		return nil, nil
	}
	return loadTLS(dir, cas, pairs, false)
}

func stringList(v any) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{v}, nil
	case []any:
		var list []string
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, fmt.Errorf("want strings, have %T", e)
			}
			list = append(list, s)
		}
		return list, nil
	}
	return nil, fmt.Errorf("want a string or a list of strings, have %T", v)
}

// clientPairs accepts what containerd does: one file with both, a list of such
// files, or a list of [certificate, key].
func clientPairs(v any) ([][2]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return [][2]string{{v, v}}, nil
	case []any:
		var pairs [][2]string
		for _, e := range v {
			files, err := stringList(e)
			if err != nil {
				return nil, err
			}
			switch {
			case len(files) == 1, len(files) == 2 && files[1] == "":
				pairs = append(pairs, [2]string{files[0], files[0]})
			case len(files) == 2:
				pairs = append(pairs, [2]string{files[0], files[1]})
			default:
				return nil, fmt.Errorf("want [certificate, key], have %d entries", len(files))
			}
		}
		return pairs, nil
	}
	return nil, fmt.Errorf("want a path or a list, have %T", v)
}
