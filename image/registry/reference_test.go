package registry

import (
	"errors"
	"strings"
	"testing"
)

func TestParseReference(t *testing.T) {
	const hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for in, want := range map[string]string{
		"busybox":                                 "docker.io/library/busybox:latest",
		"busybox:1.36":                            "docker.io/library/busybox:1.36",
		"someone/thing":                           "docker.io/someone/thing:latest",
		"index.docker.io/busybox":                 "docker.io/library/busybox:latest",
		"docker.io/busybox@sha256:" + hex:         "docker.io/library/busybox@sha256:" + hex,
		"docker.io/library/busybox":               "docker.io/library/busybox:latest",
		"localhost/x":                             "localhost/x:latest",
		"localhost:5000/x:y":                      "localhost:5000/x:y",
		"127.0.0.1:5000/a/b/c:1":                  "127.0.0.1:5000/a/b/c:1",
		"[::1]:5000/x":                            "[::1]:5000/x:latest",
		"registry.k8s.io/pause:3.9":               "registry.k8s.io/pause:3.9",
		"UPPER/x":                                 "UPPER/x:latest", // docker: an upper-case first part is a host
		"gcr.io/a__b/c-.d":                        "",
		"gcr.io/a__b/c--d.e_f":                    "gcr.io/a__b/c--d.e_f:latest",
		"gcr.io/x:tag@sha256:" + hex:              "gcr.io/x@sha256:" + hex, // the digest says it all
		"gcr.io/x@sha512:" + hex:                  "",
		"gcr.io/x@sha256:" + hex[1:]:              "",
		"gcr.io/x@md5:d41d8cd98f00b204e9800998ec": "",
		hex:                                  "",
		"":                                   "",
		"/x":                                 "",
		"x/":                                 "",
		"a//b":                               "",
		"gcr.io/":                            "",
		"gcr.io/X":                           "",
		"x:":                                 "",
		"x:-a":                               "",
		"x:a b":                              "",
		"x:" + strings.Repeat("a", 129):      "",
		"gcr.io/" + strings.Repeat("a", 250): "",
		"-gcr.io/x":                          "",
		"gcr.io:port/x":                      "",
		"gcr.io/../x":                        "",
		"https://gcr.io/x":                   "",
		"x\n":                                "",
		strings.Repeat("x", 10000):           "",
	} {
		r, err := ParseReference(in)
		if want == "" {
			if !errors.Is(err, ErrInvalidReference) {
				t.Errorf("%q: %v, %v; want it refused", in, r, err)
			}
			continue
		}
		if err != nil || r.String() != want {
			t.Errorf("%q: %q, %v; want %q", in, r, err, want)
		}
	}
}

func FuzzParseReference(f *testing.F) {
	f.Add("docker.io/library/busybox:latest")
	f.Add("[::1]:5000/x@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseReference(s)
		if err != nil {
			return
		}
		again, err := ParseReference(r.String())
		if err != nil || again != r {
			t.Errorf("%q is %q, which is %q, %v", s, r, again, err)
		}
	})
}
