package cli

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestFindAuth(t *testing.T) {
	home := t.TempDir()
	if err := os.Mkdir(filepath.Join(home, ".docker"), 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(path, content string) {
		if err := os.WriteFile(filepath.Join(home, path), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// dTpw is u:p.
	write(".docker/config.json", `{"auths": {
		"https://index.docker.io/v1/": {"auth": "aHViOnA="},
		"quay.io": {"auth": "dTpw"},
		"quay.io/team": {"username": "team", "password": "p"},
		"helper.io": {}, "store.io": {},
		"bad.io": {"auth": "!"}
	}, "credHelpers": {"own.io": "own", "none.io": "none", "broken.io": "broken", "path.io": "../x", "token.io": "token"}, "credsStore": "store"}`)
	bin := t.TempDir()
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	for name, script := range map[string]string{
		"own":    `printf '{"ServerURL":"x","Username":"own-%s","Secret":"s"}' "$(cat)"`,
		"token":  `echo '{"Username":"<token>","Secret":"refresh"}'`,
		"store":  `[ "$(cat)" = store.io ] && echo '{"Username":"stored","Secret":"s"}' || { echo credentials not found in native keychain; exit 1; }`,
		"none":   "echo credentials not found in native keychain; exit 1",
		"broken": "echo no keyring here; exit 1",
	} {
		if err := os.WriteFile(filepath.Join(bin, "docker-credential-"+name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write("auth.json", `{"auths": {"localhost:5000": {"identitytoken": "t"}}}`)
	env := map[string]string{"HOME": home, "REGISTRY_AUTH_FILE": filepath.Join(home, "auth.json"), "XDG_RUNTIME_DIR": filepath.Join(home, "none")}
	for _, test := range []struct{ ref, user, fails string }{
		{"debian", "hub", ""},
		{"library/debian:12", "hub", ""},
		{"docker.io/library/debian@sha256:00", "hub", ""},
		{"quay.io/other/x:1", "u", ""},
		{"quay.io/team/x:1", "team", ""},
		{"helper.io/x", "", ""},
		{"unknown.io/x", "", ""},
		{"own.io/x", "own-own.io", ""},
		{"none.io/x", "", ""},
		{"store.io/x", "stored", ""},
		{"broken.io/x", "", "no keyring here"},
		{"path.io/x", "", "is not a name"},
		{"bad.io/x", "", "credentials for bad.io in "},
	} {
		auth, err := findAuth(t.Context(), test.ref, func(name string) string { return env[name] })
		if !fails(t, err, test.fails) && auth.GetUsername() != test.user {
			t.Errorf("%s: got %q, want %q", test.ref, auth.GetUsername(), test.user)
		}
	}
	if auth, err := findAuth(t.Context(), "localhost:5000/a/b", func(name string) string { return env[name] }); err != nil || auth.GetIdentityToken() != "t" {
		t.Errorf("got %v, %v", auth, err)
	}
	if auth, err := findAuth(t.Context(), "token.io/a", func(name string) string { return env[name] }); err != nil || auth.GetIdentityToken() != "refresh" {
		t.Errorf("got %v, %v", auth, err)
	}
	if got := authKeys("r.io:1/a/b:2"); !slices.Equal(got, []string{"r.io:1/a/b", "r.io:1/a", "r.io:1", "https://r.io:1"}) {
		t.Errorf("keys %q", got)
	}
}
