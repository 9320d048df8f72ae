package cli

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

// authFiles are where `docker login`, `podman login` and their like leave
// credentials, the first that has some for a registry counts.
func authFiles(getenv func(string) string) []string {
	var files []string
	add := func(dir string, name ...string) {
		if dir != "" {
			files = append(files, filepath.Join(append([]string{dir}, name...)...))
		}
	}
	add(getenv("REGISTRY_AUTH_FILE"))
	add(getenv("XDG_RUNTIME_DIR"), "containers", "auth.json")
	add(getenv("DOCKER_CONFIG"), "config.json")
	add(getenv("HOME"), ".docker", "config.json")
	return files
}

// credentials are what one file says of one registry.
type credentials struct {
	Auth          string `json:"auth"` // base64 of USER:PASSWORD
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// authFile is auth.json or docker's config.json.
type authFile struct {
	Auths       map[string]credentials `json:"auths"`
	CredHelpers map[string]string      `json:"credHelpers"` // by registry: who has its credentials
	CredsStore  string                 `json:"credsStore"`  // who has all others
}

// findAuth looks for the credentials that this user has for an image's registry;
// nil is none. A credential helper that a file names is asked.
func findAuth(ctx context.Context, ref string, getenv func(string) string) (*strakev1.Auth, error) {
	keys := authKeys(ref)
	for _, path := range authFiles(getenv) {
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var file authFile
		if err == nil {
			err = json.Unmarshal(data, &file)
		}
		if err != nil {
			return nil, fmt.Errorf("credentials in %s: %w", path, err)
		}
		auth, key, err := file.find(ctx, keys)
		if err != nil {
			return nil, fmt.Errorf("credentials for %s in %s: %w", key, path, err)
		}
		if auth != nil {
			return auth, nil
		}
	}
	return nil, nil
}

// find looks the keys up, the most specific first, and says under which it found
// something.
func (f authFile) find(ctx context.Context, keys []string) (auth *strakev1.Auth, key string, err error) {
	for _, key := range keys {
		helper := f.CredHelpers[key]
		c, listed := f.Auths[key]
		if helper == "" && listed && c == (credentials{}) {
			helper = f.CredsStore // how docker notes that its store has them
		}
		if helper != "" {
			auth, err = askHelper(ctx, helper, key)
		} else {
			auth, err = c.message()
		}
		if err != nil || auth != nil {
			return auth, key, err
		}
	}
	return nil, "", nil
}

// maxHelperAnswer bounds what a credential helper says.
const maxHelperAnswer = 1 << 20

// askHelper runs docker-credential-NAME get, the protocol of docker's helpers. Nil
// is that it has none.
func askHelper(ctx context.Context, name, server string) (*strakev1.Auth, error) {
	if name != filepath.Base(name) {
		return nil, fmt.Errorf("the credential helper %q is not a name", name)
	}
	program := "docker-credential-" + name
	cmd := exec.CommandContext(ctx, program, "get")
	cmd.Stdin = strings.NewReader(server)
	out, err := cmd.Output()
	text := strings.TrimSpace(string(out[:min(len(out), maxHelperAnswer)]))
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if strings.Contains(text, "credentials not found") {
			return nil, nil
		}
		return nil, fmt.Errorf("%s: %w: %s", program, err, text)
	}
	if err != nil {
		return nil, err
	}
	var answer struct{ Username, Secret string }
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return nil, fmt.Errorf("%s: its answer: %w", program, err)
	}
	switch answer.Username {
	case "":
		return nil, nil
	case "<token>":
		return &strakev1.Auth{IdentityToken: answer.Secret}, nil
	}
	return &strakev1.Auth{Username: answer.Username, Password: answer.Secret}, nil
}

// authKeys are the names under which a file may have the credentials for an
// image, the most specific first: its repository, the folders above, its host.
func authKeys(ref string) []string {
	name, _, _ := strings.Cut(ref, "@")
	host, path, ok := strings.Cut(name, "/")
	if !ok || !strings.ContainsAny(host, ".:") && host != "localhost" {
		host, path = "docker.io", name
	}
	if i := strings.LastIndexByte(path, ':'); i >= 0 {
		path = path[:i]
	}
	var keys []string
	for path != "" {
		keys = append(keys, host+"/"+path)
		path = path[:max(strings.LastIndexByte(path, '/'), 0)]
	}
	keys = append(keys, host)
	if host == "docker.io" {
		keys = append(keys, "https://index.docker.io/v1/", "index.docker.io")
	}
	return append(keys, "https://"+host)
}

func (c credentials) message() (*strakev1.Auth, error) {
	user, password := c.Username, c.Password
	if c.Auth != "" {
		text, err := base64.StdEncoding.DecodeString(c.Auth)
		if err != nil {
			return nil, err
		}
		var ok bool
		if user, password, ok = strings.Cut(string(text), ":"); !ok {
			return nil, errors.New("auth is not USER:PASSWORD")
		}
	}
	if user == "" && c.IdentityToken == "" && c.RegistryToken == "" {
		return nil, nil // a credential helper has them
	}
	return &strakev1.Auth{Username: user, Password: password, IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken}, nil
}
