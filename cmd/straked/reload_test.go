package main

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strake-containers/strake/config"
)

// SIGHUP: the log level counts at once, other changes are named, and a wrong file
// changes nothing.
func TestReload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.toml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	write("log_level = \"warn\"\n")
	o := overrides{file: file}
	c, _, err := o.load()
	if err != nil {
		t.Fatal(err)
	}
	log, level := newLogger(&out, c)
	r := &reloader{load: o.load, running: c, level: level, log: log}

	write("log_level = \"debug\"\n[monitor]\npods = 7\n[cni]\nconf_dir = \"/x\"\n")
	r.reload()
	if level.Level() != slog.LevelDebug || !strings.Contains(out.String(), `keys="[cni.conf_dir monitor.pods]"`) {
		t.Errorf("level %v, log %s", level.Level(), out.String())
	}
	out.Reset()
	write("log_level = \"loud\"\n")
	r.reload()
	if level.Level() != slog.LevelDebug || !strings.Contains(out.String(), "loud") {
		t.Errorf("level %v, log %s", level.Level(), out.String())
	}
	out.Reset()
	write("log_level = \"info\"\n")
	r.reload()
	if level.Level() != slog.LevelInfo || strings.Contains(out.String(), "restart") {
		t.Errorf("level %v, log %s", level.Level(), out.String())
	}
	if keys, err := changedKeys(config.Default(), config.Default()); err != nil || len(keys) > 0 {
		t.Errorf("%v, %v", keys, err)
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
