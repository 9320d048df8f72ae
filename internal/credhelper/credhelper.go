// Package credhelper asks the credential helpers that registries.conf and docker's
// files name: programs docker-credential-NAME, which keep the credentials of
// registries. It knows no file but what it needs of registries.conf, and keeps no
// answer.
//
// Sources: containers-registries.conf(5), credential-helpers; docker's protocol of
// credential helpers.
package credhelper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/strake-containers/strake/internal/sys"
)

// AuthFiles is the helper that is no program: the files that logins write.
const AuthFiles = "containers-auth.json"

const (
	maxAnswer = 1 << 20
	maxFile   = 1 << 20
)

// Credentials are a helper's answer. Its zero value is that it has none.
type Credentials struct {
	Username, Password string
	IdentityToken      string // instead of the two
}

// Ask runs docker-credential-NAME get for a registry.
func Ask(ctx context.Context, name, server string) (Credentials, error) {
	if name == "" || name != filepath.Base(name) {
		return Credentials{}, fmt.Errorf("the credential helper %q is not a name", name)
	}
	program := "docker-credential-" + name
	cmd := exec.CommandContext(ctx, program, "get")
	cmd.Stdin = strings.NewReader(server)
	cmd.WaitDelay = sys.AfterExit
	out, err := cmd.Output()
	err = sys.Ended(err)
	text := strings.TrimSpace(string(out[:min(len(out), maxAnswer)]))
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if strings.Contains(text, "credentials not found") {
			return Credentials{}, nil
		}
		return Credentials{}, fmt.Errorf("%s: %w: %s", program, err, text)
	}
	if err != nil {
		return Credentials{}, err
	}
	var answer struct{ Username, Secret string }
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return Credentials{}, fmt.Errorf("%s: its answer: %w", program, err)
	}
	switch answer.Username {
	case "":
		return Credentials{}, nil
	case "<token>":
		return Credentials{IdentityToken: answer.Secret}, nil
	}
	return Credentials{Username: answer.Username, Password: answer.Secret}, nil
}

// Configured gives the credential-helpers of the last of the files that has some.
// Files that are not there, and those without the key, say nothing; without any
// logins' files are all there is.
func Configured(files []string) ([]string, error) {
	helpers := []string{AuthFiles}
	for _, path := range files {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && info.Size() > maxFile {
			err = fmt.Errorf("%s: more than %d bytes", path, maxFile)
		}
		if err != nil {
			return nil, err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var file struct {
			Helpers []string `toml:"credential-helpers"`
		}
		if err := toml.Unmarshal(data, &file); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if len(file.Helpers) > 0 {
			helpers = file.Helpers
		}
	}
	return helpers, nil
}
