package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/strake-containers/strake/config"
	"github.com/strake-containers/strake/internal/sdnotify"
)

// reloader reads the configuration again when it is asked to.
type reloader struct {
	load  func() (config.Config, []string, error)
	level *slog.LevelVar
	log   *slog.Logger
	asked <-chan os.Signal
	// apply makes a configuration count that differs in changeable keys. It names the
	// runtimes that have pods, and so stay as they are. An error has changed nothing.
	apply func(config.Config) (kept []string, err error)

	one     sync.Mutex // one reload at a time
	running atomic.Pointer[config.Config]
}

// reloaded is what came of a reload: the files that were read, the keys that changed,
// and those that cannot, whose old values go on counting.
type reloaded struct{ files, changed, refused []string }

// follow reloads whenever it is asked to, until ctx ends.
func (r *reloader) follow(ctx context.Context) {
	for {
		select {
		case <-r.asked:
		case <-ctx.Done():
			return
		}
		_, _ = r.reload() // it is logged
	}
}

// reload makes count what can be changed while straked runs. A configuration that is
// wrong changes nothing. Systemd is told of it, and the log what came of it.
func (r *reloader) reload() (reloaded, error) {
	r.one.Lock()
	defer r.one.Unlock()
	tell(r.log, sdnotify.Reloading())
	defer tell(r.log, sdnotify.Ready)
	did, err := r.takeOver()
	if err != nil {
		r.log.Error("the configuration is not taken over", "error", err)
		return reloaded{}, err
	}
	r.log.Info("configuration read again", "changed", did.changed)
	if len(did.refused) > 0 {
		r.log.Warn("refused until a restart of straked, which pods do not notice, or, of a runtime, while there are pods of it", "keys", did.refused)
	}
	return did, nil
}

func (r *reloader) takeOver() (did reloaded, err error) {
	was := r.running.Load()
	want, files, err := r.load()
	if err != nil {
		return did, err
	}
	next := changeable(*was, want)
	kept, err := r.apply(next)
	if err != nil {
		return did, err
	}
	for _, name := range kept {
		next.Runtimes[name] = was.Runtimes[name]
	}
	_ = r.level.UnmarshalText([]byte(next.LogLevel)) // validated
	r.running.Store(&next)
	did.files = files
	if did.changed, err = changedKeys(*was, next); err != nil {
		return did, err
	}
	did.refused, err = changedKeys(next, want)
	return did, err
}

// changeable is the running configuration with what can be changed of the wanted one.
func changeable(running, want config.Config) config.Config {
	running.LogLevel = want.LogLevel
	running.Registry = want.Registry
	running.Images.SignaturePolicy = want.Images.SignaturePolicy
	running.Images.RegistriesD = want.Images.RegistriesD
	running.Images.NamespacePolicies = want.Images.NamespacePolicies
	running.CNI = want.CNI
	running.CDI = want.CDI
	running.HooksDirs = want.HooksDirs
	running.Workloads = want.Workloads
	running.Monitor = want.Monitor
	running.Runtimes, running.DefaultRuntime = maps.Clone(want.Runtimes), want.DefaultRuntime
	return running
}

// changedKeys lists the keys, as in the file, whose values differ.
func changedKeys(a, b config.Config) ([]string, error) {
	var keys []string
	was, err := asMap(a)
	if err != nil {
		return nil, err
	}
	is, err := asMap(b)
	if err != nil {
		return nil, err
	}
	compare("", was, is, &keys)
	slices.Sort(keys)
	return slices.Compact(keys), nil
}

func asMap(c config.Config) (map[string]any, error) {
	data, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	m := map[string]any{}
	return m, json.Unmarshal(data, &m)
}

func compare(prefix string, a, b map[string]any, keys *[]string) {
	for _, pair := range [][2]map[string]any{{a, b}, {b, a}} {
		for key, v := range pair[0] {
			other := pair[1][key]
			x, isTable := v.(map[string]any)
			y, isToo := other.(map[string]any)
			if isTable && isToo {
				compare(prefix+key+".", x, y, keys)
			} else if !reflect.DeepEqual(v, other) {
				*keys = append(*keys, prefix+key)
			}
		}
	}
}

// watchdog tells systemd that straked is well as often as it wants to hear it, as
// long as alive returns: a daemon whose locks are stuck falls silent, and is
// restarted.
func watchdog(ctx context.Context, log *slog.Logger, alive func()) error {
	interval, err := sdnotify.WatchdogInterval()
	if err != nil {
		return fmt.Errorf("watchdog: %w", err)
	}
	if interval == 0 {
		return nil
	}
	ticker := time.NewTicker(interval / 2)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			alive()
			tell(log, sdnotify.Watchdog)
		case <-ctx.Done():
			return nil
		}
	}
}

// tell sends systemd a state; that it cannot be told is no reason to stop.
func tell(log *slog.Logger, state string) {
	if err := sdnotify.Send(state); err != nil {
		log.Warn("systemd was not told", "state", state, "error", err)
	}
}
