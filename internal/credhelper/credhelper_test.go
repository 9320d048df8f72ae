package credhelper

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/strake-containers/strake/internal/testutil"
)

// A helper has answered when it has ended, whatever it leaves running: an agent, for one.
func TestLingeringHelper(t *testing.T) {
	dir := t.TempDir()
	script := testutil.Lingers(t, `echo '{"Username":"me","Secret":"secret"}'`)
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-lingers"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	if c, err := Ask(t.Context(), "lingers", "registry.example"); err != nil || c.Username != "me" || c.Password != "secret" {
		t.Errorf("%+v, %v", c, err)
	}
}
