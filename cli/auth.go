package cli

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
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

// findAuth looks for the credentials that this user has for an image's registry;
// nil is none. Credential helpers are not asked.
func findAuth(ref string, getenv func(string) string) (*strakev1.Auth, error) {
	keys := authKeys(ref)
	for _, path := range authFiles(getenv) {
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var file struct {
			Auths map[string]credentials `json:"auths"`
		}
		if err == nil {
			err = json.Unmarshal(data, &file)
		}
		if err != nil {
			return nil, fmt.Errorf("credentials in %s: %w", path, err)
		}
		for _, key := range keys {
			c, ok := file.Auths[key]
			if !ok {
				continue
			}
			auth, err := c.message()
			if err != nil {
				return nil, fmt.Errorf("credentials for %s in %s: %w", key, path, err)
			}
			if auth != nil {
				return auth, nil
			}
		}
	}
	return nil, nil
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
