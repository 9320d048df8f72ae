package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strake-containers/strake/config"
)

// SIGHUP: what can be changed counts at once, other changes are named and refused, and a
// wrong file changes nothing.
func TestReload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.toml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	write("log_level = \"warn\"\n[runtimes.crun]\ntype = \"oci\"\npath = \"/a\"\n")
	o := overrides{file: file}
	c, _, err := o.load()
	if err != nil {
		t.Fatal(err)
	}
	log, level := newLogger(&out, c)
	var kept []string
	var failure error
	var applied config.Config
	r := &reloader{load: o.load, level: level, log: log, apply: func(c config.Config) ([]string, error) {
		applied = c
		return kept, failure
	}}
	r.running.Store(&c)
	reload := func(want ...string) {
		t.Helper()
		out.Reset()
		did, err := r.reload()
		if err != nil || !slices.Equal(did.refused, want) || !slices.Equal(did.files, []string{file}) {
			t.Errorf("%+v, %v; want %q refused", did, err, want)
		}
		if named := fmt.Sprintf("keys=%q", fmt.Sprint(want)); len(want) > 0 && !strings.Contains(out.String(), named) {
			t.Errorf("log %s lacks %s", out.String(), named)
		}
	}

	const changed = "log_level = \"debug\"\n[cni]\nconf_dir = \"/x\"\n[network]\nbridge = \"b\"\n[images]\ndriver = \"copy\"\nregistries_d = \"/r\"\n"
	write(changed)
	kept = []string{"crun"} // there are pods of it
	reload("images.driver", "network.bridge", "runtimes.crun")
	now := r.running.Load()
	if level.Level() != slog.LevelDebug || applied.CNI.ConfDir != "/x" || now.Images.RegistriesD != "/r" || now.Runtimes["crun"].Path != "/a" ||
		now.Network.Bridge != "strake0" || now.Images.Driver != "auto" {
		t.Errorf("level %v, applied %+v, now %+v", level.Level(), applied, now)
	}
	kept = nil
	reload("images.driver", "network.bridge")
	if _, there := r.running.Load().Runtimes["crun"]; there {
		t.Error("a runtime without pods stays")
	}

	write("log_level = \"loud\"\n")
	if _, err := r.reload(); err == nil || level.Level() != slog.LevelDebug || !strings.Contains(out.String(), "loud") {
		t.Errorf("%v, level %v, log %s", err, level.Level(), out.String())
	}
	write("log_level = \"info\"\n")
	failure = errors.New("no such program")
	if _, err := r.reload(); !errors.Is(err, failure) || level.Level() != slog.LevelDebug || r.running.Load().CNI.ConfDir != "/x" {
		t.Errorf("%v, level %v, running %+v", err, level.Level(), r.running.Load())
	}
	failure = nil
	reload()
	if level.Level() != slog.LevelInfo || strings.Contains(out.String(), "refused") {
		t.Errorf("level %v, log %s", level.Level(), out.String())
	}
}

// systemd hears from straked twice in each interval, as long as that answers.
func TestWatchdog(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	t.Setenv("NOTIFY_SOCKET", name)
	t.Setenv("WATCHDOG_USEC", "10000000")
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		hangs := make(chan struct{})
		asked := 0
		done := make(chan error)
		go func() {
			done <- watchdog(ctx, slog.New(slog.DiscardHandler), func() {
				if asked++; asked > 3 {
					<-hangs
				}
			})
		}()
		time.Sleep(60 * time.Second)
		cancel()
		if asked != 4 {
			t.Errorf("asked %d times", asked)
		}
		close(hangs)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	buf := make([]byte, 100)
	for range 3 { // and a fourth for the one that hung
		if n, err := l.Read(buf); err != nil || string(buf[:n]) != "WATCHDOG=1" {
			t.Errorf("%q, %v", buf[:n], err)
		}
	}
}
