package pod

import (
	"errors"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strake-containers/strake/internal/logdriver"
	"github.com/strake-containers/strake/pod/bundle"
)

// Where output goes: as its container says, else as the node does; and whoever names a
// place for it gets CRI's format there.
func TestLogDriver(t *testing.T) {
	n := newNode(t)
	m := n.open()
	m.o.LogDriver = logdriver.Config{Driver: logdriver.JSONFile, MaxSize: 1 << 20, MaxFiles: 2}
	logs := t.TempDir()
	config := podConfig("web")
	config.LogDirectory = logs
	pod, err := m.RunPod(t.Context(), config, "")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		path   string
		log    *bundle.LogConfig
		uri    string // OWN is the container's directory, ID its id
		driver string
		fails  string
	}{
		"kubelet":      {"a/0.log", nil, "cri://" + logs + "/a/0.log", "k8s-file", ""},
		"kubelet-asks": {"a/1.log", &bundle.LogConfig{Driver: "none"}, "", "", `log driver none: log_path "a/1.log" has the format of CRI`},
		"node":         {"", nil, "json-file://OWN/0.log?max-file=2&max-size=1048576", "json-file", ""},
		"node-empty":   {"", &bundle.LogConfig{}, "json-file://OWN/0.log?max-file=2&max-size=1048576", "json-file", ""},
		"node-options": {"", &bundle.LogConfig{Options: map[string]string{"max-size": "2m"}}, "json-file://OWN/0.log?max-file=1&max-size=2097152", "json-file", ""},
		"cri":          {"", &bundle.LogConfig{Driver: "k8s-file"}, "cri://OWN/0.log", "k8s-file", ""},
		"cri-rotated":  {"", &bundle.LogConfig{Driver: "k8s-file", Options: map[string]string{"max-size": "1m"}}, "k8s-file://OWN/0.log?max-file=1&max-size=1048576", "k8s-file", ""},
		"none":         {"", &bundle.LogConfig{Driver: "none"}, "none:", "none", ""},
		"journald": {"", &bundle.LogConfig{Driver: "journald", Options: map[string]string{"tag": "t"}},
			"journald:///run/systemd/journal/socket?CONTAINER_ID=SHORT&CONTAINER_ID_FULL=ID&CONTAINER_NAME=journald&CONTAINER_TAG=t&IMAGE_NAME=IMAGE&SYSLOG_IDENTIFIER=t", "journald", ""},
		"unknown": {"", &bundle.LogConfig{Driver: "syslog"}, "", "", `log driver "syslog": choose`},
	} {
		t.Run(name, func(t *testing.T) {
			config := containerConfig(name)
			config.LogPath, config.Log = c.path, c.log
			id, err := m.CreateContainer(t.Context(), pod, config)
			if c.fails != "" {
				if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.fails) {
					t.Fatalf("error %v, want %q", err, c.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			s := mustContainer(t, m, id)
			own := m.store.ContainerDir(pod, id)
			want := strings.NewReplacer("OWN", own, "SHORT", id[:12], "FULL=ID", "FULL="+id, "IMAGE&", url.QueryEscape(s.ImageName)+"&").Replace(c.uri)
			if got := n.stdout(id); got != want {
				t.Errorf("stdout is %s, want %s", got, want)
			}
			path := ""
			switch {
			case c.path != "":
				path = filepath.Join(logs, c.path)
			case strings.Contains(c.uri, "OWN"):
				path = own + "/0.log"
			}
			if s.LogDriver != c.driver || s.LogPath != path {
				t.Errorf("driver %s, path %q", s.LogDriver, s.LogPath)
			}
		})
	}
}

// stdout is where a container's output goes.
func (n *node) stdout(id string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, m := range n.monitors {
		if c := m.containers[id]; c != nil {
			return c.stdout
		}
	}
	return ""
}
