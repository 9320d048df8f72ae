package registry

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	fake "github.com/strake-containers/strake/test/registry"
)

const (
	proxyTrees    = "STRAKE_TEST_PROXY_CONFIG_PATH" // makes TestProxied the process behind a proxy
	proxyUser     = "proxy-user:proxy-secret"
	registryUser  = "registry-user:registry-secret"
	throughTLS    = "example.com" // the name in the certificate of httptest
	throughPlain  = "plain.invalid"
	besideProxies = "direct.invalid"
)

// recorder is what somebody has seen.
type recorder struct {
	mu   sync.Mutex
	seen []string
}

func (r *recorder) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := fmt.Sprintf(format, args...); !slices.Contains(r.seen, s) {
		r.seen = append(r.seen, s)
	}
}

// take gives what was seen, each once, and forgets it.
func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer func() { r.seen = nil }()
	slices.Sort(r.seen)
	return r.seen
}

func basic(user string) string {
	req := http.Request{Header: http.Header{}}
	req.SetBasicAuth(strings.SplitN(user, ":", 2)[0], strings.SplitN(user, ":", 2)[1])
	return req.Header.Get("Authorization")
}

// proxy forwards requests to plain and tunnels to secure, whatever host they are for.
type proxy struct {
	recorder
	plain, secure string // host:port
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Header.Get("Proxy-Authorization") != basic(proxyUser) {
		w.WriteHeader(http.StatusProxyAuthRequired)
		return
	}
	if req.Method != http.MethodConnect {
		p.note("%s", req.URL.Host)
		forward := httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Host, r.Out.Host = p.plain, r.In.Host
		}}
		forward.ServeHTTP(w, req)
		return
	}
	p.note("CONNECT %s, credentials %q", req.Host, req.Header.Get("Authorization"))
	out, err := net.Dial("tcp", p.secure)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer out.Close()
	w.WriteHeader(http.StatusOK)
	in, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer in.Close()
	go func() { _, _ = io.Copy(out, in); _ = out.Close() }() // whoever ends first ends both
	_, _ = io.Copy(in, out)
}

// TestProxies pulls and pushes through an HTTP proxy, which HTTP_PROXY, HTTPS_PROXY and
// NO_PROXY say, and looks at what it and the registry see of credentials.
func TestProxies(t *testing.T) {
	r := fake.New()
	if _, err := r.Add("a/b", "1", fake.Image{}); err != nil {
		t.Fatal(err)
	}
	var asked recorder
	login := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		asked.note("%s, the proxy's credentials %q", req.Host, req.Header.Get("Proxy-Authorization"))
		if req.Header.Get("Authorization") != basic(registryUser) {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		r.ServeHTTP(w, req)
	})
	plain, secure := httptest.NewServer(login), httptest.NewTLSServer(login)
	defer plain.Close()
	defer secure.Close()
	p := &proxy{plain: plain.Listener.Addr().String(), secure: secure.Listener.Addr().String()}
	server := httptest.NewServer(p)
	defer server.Close()

	trees := t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	for name, text := range map[string]string{
		throughTLS + "/ca.crt":        string(ca),
		throughPlain + "/hosts.toml":  `server = "http://` + throughPlain + `"`,
		besideProxies + "/hosts.toml": `server = "http://` + besideProxies + `"`,
	} {
		path := filepath.Join(trees, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// behind gives what a process says whose environment has the proxy: it is read once.
	behind := func(user string) string {
		t.Helper()
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestProxied$")
		address := "http://" + user + "@" + server.Listener.Addr().String()
		cmd.Env = append(os.Environ(), proxyTrees+"="+trees, "HTTP_PROXY="+address, "HTTPS_PROXY="+address,
			"http_proxy=", "https_proxy=", "no_proxy=", "NO_PROXY=other.invalid,"+besideProxies)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if strings.Contains(string(out), "secret") {
			t.Errorf("a password is in %s", out)
		}
		return string(out)
	}

	out := behind(proxyUser)
	for _, want := range []string{throughTLS + ": <nil>", throughPlain + ": <nil>", "lookup " + besideProxies} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
	if seen, want := p.take(), []string{`CONNECT ` + throughTLS + `:443, credentials ""`, throughPlain}; !slices.Equal(seen, want) {
		t.Errorf("the proxy saw %q, want %q", seen, want)
	}
	want := []string{throughTLS + `, the proxy's credentials ""`, throughPlain + `, the proxy's credentials ""`}
	if seen := asked.take(); !slices.Equal(seen, want) {
		t.Errorf("the registry saw %q, want %q", seen, want)
	}

	out = behind("proxy-user:wrong")
	if n := strings.Count(out, "Proxy Authentication Required"); n != 2 {
		t.Errorf("of two registries %d cannot be reached with a wrong password: %s", n, out)
	}
	if seen := asked.take(); len(seen) != 0 {
		t.Errorf("with a wrong password for the proxy the registry saw %q", seen)
	}
}

// TestProxied is what TestProxies starts.
func TestProxied(t *testing.T) {
	trees := os.Getenv(proxyTrees)
	if trees == "" {
		t.Skip("TestProxies starts it")
	}
	for _, host := range []string{throughTLS, throughPlain, besideProxies} {
		user, password, _ := strings.Cut(registryUser, ":")
		r := open(t, Config{ConfigPath: trees}, host+"/a/b:1", &Auth{Username: user, Password: password})
		fmt.Printf("%s: %v\n", host, pullAndPush(t.Context(), r))
	}
}

func pullAndPush(ctx context.Context, r *Repository) error {
	top, err := r.Resolve(ctx)
	if err != nil {
		return err
	}
	body, _, err := r.Manifest(ctx, top)
	if err != nil {
		return err
	}
	m, err := ParseManifest(body)
	if err != nil {
		return err
	}
	if _, err := r.Bytes(ctx, m.Config, MaxConfig); err != nil {
		return err
	}
	if _, err := r.Upload(ctx, bytes.NewReader([]byte("blob")), "", nil); err != nil {
		return err
	}
	_, err = r.PutManifest(ctx, v1.MediaTypeImageManifest, body)
	return err
}
