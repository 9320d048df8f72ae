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
	env := map[string]string{"HOME": home, "REGISTRY_AUTH_FILE": filepath.Join(home, "auth.json"), "XDG_RUNTIME_DIR": filepath.Join(home, "none"), "CONTAINERS_REGISTRIES_CONF": filepath.Join(home, "registries.conf")}
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

// TestCredentialHelpers finds credentials where registries.conf says.
func TestCredentialHelpers(t *testing.T) {
	dir := t.TempDir()
	write := func(path, content string, mode os.FileMode) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, path), []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
	write("bin/docker-credential-all", "#!/bin/sh\nprintf '{\"Username\":\"all-%s\",\"Secret\":\"s\"}' \"$(cat)\"\n", 0o755)
	write("bin/docker-credential-none", "#!/bin/sh\necho credentials not found in native keychain; exit 1\n", 0o755)
	write("bin/docker-credential-broken", "#!/bin/sh\necho no keyring here; exit 1\n", 0o755)
	write("auth.json", `{"auths": {"r.io": {"username": "file", "password": "p"}}}`, 0o600)
	own := filepath.Join(dir, ".config/containers/registries.conf")
	for _, test := range []struct{ conf, drop, ref, user, fails string }{
		{"", "", "r.io/a", "file", ""},
		{`["all"]`, "", "r.io/a/b:1", "all-r.io", ""},
		{`["all"]`, "", "debian", "all-docker.io", ""},
		{`["containers-auth.json", "all"]`, "", "r.io/a", "file", ""},
		{`["containers-auth.json", "all"]`, "", "q.io/a", "all-q.io", ""},
		{`["none", "broken", "containers-auth.json"]`, "", "r.io/a", "file", ""},
		{`["none"]`, "", "r.io/a", "", ""},
		{`["none", "broken"]`, "", "r.io/a", "", "no keyring here"},
		{`["absent"]`, "", "r.io/a", "", "docker-credential-absent"},
		{`["../x"]`, "", "r.io/a", "", "is not a name"},
		{`["none"]`, `["all"]`, "r.io/a", "all-r.io", ""},
		{`3`, "", "r.io/a", "", "registries.conf"},
	} {
		for path, list := range map[string]string{"": test.conf, ".d/10.conf": test.drop} {
			if list != "" {
				list = "credential-helpers = " + list + "\n"
			}
			write(".config/containers/registries.conf"+path, "short-name-mode = \"enforcing\"\n", 0o600)
			if list != "" {
				write(".config/containers/registries.conf"+path, list, 0o600)
			}
		}
		for _, env := range []map[string]string{{"HOME": dir}, {"HOME": "/nonexistent", "CONTAINERS_REGISTRIES_CONF": own}} {
			env["REGISTRY_AUTH_FILE"] = filepath.Join(dir, "auth.json")
			auth, err := findAuth(t.Context(), test.ref, func(name string) string { return env[name] })
			if !fails(t, err, test.fails) && auth.GetUsername() != test.user {
				t.Errorf("%+v: got %q", test, auth.GetUsername())
			}
		}
	}
}
