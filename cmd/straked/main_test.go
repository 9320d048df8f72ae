package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strake-containers/strake/config"
)

func TestCommandLine(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("good.toml", "log_level = \"debug\"\n")
	bad := write("bad.toml", "\n\n[cni]\nconf = 1\n")
	dropped := write("dropped.toml", "root = \"/srv\"\n")
	for name, text := range map[string]string{"20-b.toml": "log_level = \"warn\"\n", "10-a.toml": "log_level = \"debug\"\n", "notes": "?", ".#x.toml": "?"} {
		if err := os.MkdirAll(dropped+".d", 0o700); err != nil {
			t.Fatal(err)
		}
		write(filepath.Join("dropped.toml.d", name), text)
	}
	first, second := filepath.Join(dropped+".d", "10-a.toml"), filepath.Join(dropped+".d", "20-b.toml")
	shown := config.Default()
	shown.Root, shown.State, shown.LogLevel = "/srv", "/run/x", "warn"
	text, err := shown.TOML()
	if err != nil {
		t.Fatal(err)
	}
	badDrop := write("bad-drop.toml", "")
	if err := os.Mkdir(badDrop+".d", 0o700); err != nil {
		t.Fatal(err)
	}
	wrong := write(filepath.Join("bad-drop.toml.d", "x.toml"), "\nlog_level = \"loud\"\n")
	for _, c := range []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{[]string{"version"}, exitOK, "straked dev\n", ""},
		{[]string{"--help"}, exitOK, usage, ""},
		{[]string{"config", "default"}, exitOK, string(config.DefaultTOML()), ""},
		{[]string{"config", "check", good}, exitOK, good + ": ok\n", ""},
		{[]string{"config", "check", dropped}, exitOK, dropped + ": ok\n" + first + ": ok\n" + second + ": ok\n", ""},
		{[]string{"config", "check", badDrop}, exitError, "", wrong + ":2: log_level: \"loud\" is not one of debug, info, warn, error\n"},
		{[]string{"--state", "/run/x", "config", "show", dropped}, exitOK, "# " + dropped + "\n# " + first + "\n# " + second + "\n" + string(text), ""},
		{[]string{"config", "check", bad}, exitError, "", bad + ":4: cni.conf: unknown key\n"},
		{[]string{"config", "check", filepath.Join(dir, "none")}, exitError, "", "open " + filepath.Join(dir, "none") + ": no such file or directory\n"},
		{[]string{"--config", bad}, exitError, "", "straked: " + bad + ":4: cni.conf: unknown key\n"},
		{[]string{"--root", "var/lib"}, exitError, "", "straked: configuration: root: \"var/lib\" is not a clean absolute path\n"},
		{[]string{"--colour"}, exitUsage, "", "straked: flag provided but not defined: -colour; see straked --help\n"},
		{[]string{"config", "check"}, exitUsage, "", "straked: config check needs a FILE; see straked --help\n"},
		{[]string{"start"}, exitUsage, "", "straked: no command \"start\"; see straked --help\n"},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if code := run(c.args, &stdout, &stderr); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			if stdout.String() != c.stdout {
				t.Errorf("stdout %q, want %q", stdout.String(), c.stdout)
			}
			if stderr.String() != c.stderr {
				t.Errorf("stderr %q, want %q", stderr.String(), c.stderr)
			}
		})
	}
}
