package registry

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// describe prints endpoints in one line each.
func describe(eps []endpoint) string {
	var lines []string
	for _, ep := range eps {
		line := ep.base.String()
		for _, f := range []struct {
			on   bool
			name string
		}{{ep.upstream, "upstream"}, {ep.resolve, "resolve"}, {ep.pull, "pull"}, {ep.refers && !ep.pull, "referrers"}, {ep.tls != nil && ep.tls.InsecureSkipVerify, "insecure"}} {
			if f.on {
				line += " " + f.name
			}
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

func TestEndpoints(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "docker.io/hosts.toml", `
server = "https://docker.io"

[host."https://zz.example:8443/proxy"]
  capabilities = ["pull"]
  skip_verify = true
  [host."https://zz.example:8443/proxy".header]
    x-token = "secret"
    x-list = ["a", "b"]

[host."http://aa.example"]
  capabilities = ["pull", "resolve"]

[host."https://path.example/v2/mirror"]
  override_path = true

[host."https://signatures.example"]
  capabilities = ["referrers"]
`)
	write(t, dir, "quay.io/hosts.toml", `[host."mirror.example:80"]`)
	write(t, dir, "with.example_5000_/hosts.toml", `server = "http://elsewhere.example"`)
	write(t, dir, "only.example/hosts.toml", `capabilities = ["pull", "resolve"]
skip_verify = true`)
	write(t, dir, "empty.example/readme", "no configuration")
	for domain, want := range map[string]string{
		"docker.io": `https://zz.example:8443/proxy/v2 pull insecure
http://aa.example/v2 resolve pull
https://path.example/v2/mirror resolve pull
https://signatures.example/v2 referrers
https://registry-1.docker.io/v2 upstream resolve pull`,
		"quay.io": `http://mirror.example:80/v2 resolve pull
https://quay.io/v2 upstream resolve pull`,
		"with.example:5000": `http://elsewhere.example/v2 upstream resolve pull`,
		"only.example":      `https://only.example/v2 upstream resolve pull insecure`,
		"empty.example":     `https://empty.example/v2 upstream resolve pull`,
		"absent.example":    `https://absent.example/v2 upstream resolve pull`,
		"127.0.0.1:5000": `http://127.0.0.1:5000/v2 upstream resolve pull
https://127.0.0.1:5000/v2 upstream resolve pull insecure`,
		"[::1]:5000": `http://[::1]:5000/v2 upstream resolve pull
https://[::1]:5000/v2 upstream resolve pull insecure`,
	} {
		eps, err := endpoints("/nowhere:"+dir, domain)
		if err != nil {
			t.Errorf("%s: %v", domain, err)
		} else if have := describe(eps); have != want {
			t.Errorf("%s:\n%s\nwant\n%s", domain, have, want)
		}
	}
	eps, err := endpoints(dir, "docker.io")
	if err != nil {
		t.Fatal(err)
	}
	if h := eps[0].header; h.Get("X-Token") != "secret" || len(h[http.CanonicalHeaderKey("x-list")]) != 2 {
		t.Errorf("headers %v", h)
	}
	// A tree with _default serves every registry that has none of its own.
	write(t, dir, "_default/hosts.toml", `[host."https://all.example"]`)
	if eps, err := endpoints(dir, "absent.example"); err != nil || eps[0].base.Host != "all.example" {
		t.Errorf("_default: %v, %v", describe(eps), err)
	}
}

func TestEndpointErrors(t *testing.T) {
	for text, want := range map[string]string{
		"server = ":        "hosts.toml:1:",
		`[host."ftp://x"]`: "ftp://x",
		`[host."https://x"]` + "\ncapabilities = [\"dance\"]":     "dance",
		`[host."https://x"]` + "\nca = 5":                         "ca:",
		`[host."https://x"]` + "\nca = \"missing.pem\"":           "missing.pem",
		`[host."https://x"]` + "\nclient = [[\"a\",\"b\",\"c\"]]": "client:",
		`[host."https://x".header]` + "\nx = 5":                   "header",
	} {
		dir := t.TempDir()
		write(t, dir, "r.example/hosts.toml", text)
		if _, err := endpoints(dir, "r.example"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q in it", text, err, want)
		}
	}
}
