package cli

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/strake-containers/strake/internal/credhelper"
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

// registriesFiles are where registries.conf names credential helpers, later ones
// count: a user's file takes the place of the machine's, drop-ins add to either.
func registriesFiles(getenv func(string) string) ([]string, error) {
	const system = "/etc/containers/registries.conf"
	file, folders := system, []string{system + ".d"}
	if home := getenv("HOME"); home != "" {
		own := filepath.Join(home, ".config/containers/registries.conf")
		if _, err := os.Stat(own); err == nil {
			file = own
		}
		folders = append(folders, own+".d")
	}
	if named := getenv("CONTAINERS_REGISTRIES_CONF"); named != "" {
		file, folders = named, []string{named + ".d"}
	}
	files := []string{file}
	for _, folder := range folders {
		more, err := filepath.Glob(filepath.Join(folder, "*.conf"))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", folder, err)
		}
		files = append(files, more...)
	}
	return files, nil
}

// findAuth looks for the credentials that this user has for an image's registry,
// where registries.conf says: in the files of logins unless it names helpers. Nil is
// none. One that fails counts when no other has some.
func findAuth(ctx context.Context, ref string, getenv func(string) string) (*strakev1.Auth, error) {
	files, err := registriesFiles(getenv)
	if err != nil {
		return nil, err
	}
	helpers, err := credhelper.Configured(files)
	if err != nil {
		return nil, fmt.Errorf("credential-helpers: %w", err)
	}
	var errs []error
	for _, helper := range helpers {
		var auth *strakev1.Auth
		var err error
		if helper == credhelper.AuthFiles {
			auth, err = findInFiles(ctx, ref, getenv)
		} else if auth, err = askHelper(ctx, helper, authHost(ref)); err != nil {
			err = fmt.Errorf("credentials for %s by registries.conf's credential-helpers: %w", authHost(ref), err)
		}
		if err == nil && auth != nil {
			return auth, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// findInFiles looks in the files of logins. A credential helper that one names is
// asked.
func findInFiles(ctx context.Context, ref string, getenv func(string) string) (*strakev1.Auth, error) {
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

// askHelper asks a credential helper; nil is that it has none.
func askHelper(ctx context.Context, name, server string) (*strakev1.Auth, error) {
	c, err := credhelper.Ask(ctx, name, server)
	if err != nil || c == (credhelper.Credentials{}) {
		return nil, err
	}
	return &strakev1.Auth{Username: c.Username, Password: c.Password, IdentityToken: c.IdentityToken}, nil
}

// authKeys are the names under which a file may have the credentials for an
// image, the most specific first: its repository, the folders above, its host.
func authKeys(ref string) []string {
	host, path := splitName(ref)
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

// authHost is the registry of an image, as a helper is asked for it.
func authHost(ref string) string {
	host, _ := splitName(ref)
	return host
}

// splitName gives an image's registry and what is after it, without a digest.
func splitName(ref string) (host, path string) {
	name, _, _ := strings.Cut(ref, "@")
	host, path, ok := strings.Cut(name, "/")
	if !ok || !strings.ContainsAny(host, ".:") && host != "localhost" {
		return "docker.io", name
	}
	return host, path
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
