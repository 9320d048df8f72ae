package hooks

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func hook(path, when string) string {
	return `{"version": "1.0.0", "hook": {"path": "` + path + `"}, "when": ` + when + `, "stages": ["createRuntime", "poststop"]}`
}

func paths(hooks []specs.Hook) string {
	var out []string
	for _, h := range hooks {
		out = append(out, h.Path)
	}
	return strings.Join(out, " ")
}

func TestConditions(t *testing.T) {
	c := Container{Annotations: map[string]string{"app": "web", "io.example/x": "on"}, HasBindMounts: true}
	for when, want := range map[string]bool{
		`{"always": true}`:                                      true,
		`{"always": false}`:                                     false,
		`{"hasBindMounts": true}`:                               true,
		`{"hasBindMounts": false}`:                              false,
		`{"commands": ["^/bin/sh$"]}`:                           true,
		`{"commands": ["nginx", "sh"]}`:                         true,
		`{"commands": ["nginx"]}`:                               false,
		`{"annotations": {"^app$": "web"}}`:                     true,
		`{"annotations": {"^app$": "db"}}`:                      false,
		`{"annotations": {"app": ".", "^io\\.example/": "on"}}`: true,
		`{"annotations": {"app": ".", "none": "on"}}`:           false,
		`{"always": true, "commands": ["nginx"]}`:               false,
		`{"always": true, "commands": ["sh"]}`:                  true,
	} {
		dir := t.TempDir()
		write(t, dir, "a.json", hook("/h", when))
		spec := &specs.Spec{Process: &specs.Process{Args: []string{"/bin/sh", "nginx"}}}
		if err := Add(spec, []string{dir}, c); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		if got := spec.Hooks != nil && len(spec.Hooks.CreateRuntime) == 1 && len(spec.Hooks.Poststop) == 1; got != want {
			t.Errorf("%s: %v", when, got)
		}
	}
}

func TestOrder(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	write(t, first, "b.json", hook("/first/b", `{"always": true}`))
	write(t, first, "a.json", hook("/first/a", `{"always": true}`))
	write(t, first, "README", "no hook")
	write(t, second, "b.json", hook("/second/b", `{"always": true}`))
	write(t, second, "c.json", hook("/second/c", `{"always": true}`))
	spec := &specs.Spec{Hooks: &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/own"}}}}
	if err := Add(spec, []string{first, filepath.Join(first, "none"), second}, Container{}); err != nil {
		t.Fatal(err)
	}
	if got := paths(spec.Hooks.CreateRuntime); got != "/own /first/a /second/b /second/c" {
		t.Error(got)
	}
}

func TestRefused(t *testing.T) {
	for text, want := range map[string]string{
		`{`:                                    "a.json: unexpected",
		`{"version": "0.1.0"}`:                 "version",
		hook("bin/h", `{"always": true}`):      "hook.path",
		hook("/h", `{}`):                       "when: is empty",
		hook("/h", `{"or": true}`):             "unknown field",
		hook("/h", `{"commands": ["("]}`):      "when.commands[0]",
		hook("/h", `{"annotations":{"(":""}}`): "when.annotations",
		`{"version": "1.0.0", "hook": {"path": "/h", "timeout": 0}, "when": {"always": true}, "stages": ["poststop"]}`: "hook.timeout",
		`{"version": "1.0.0", "hook": {"path": "/h"}, "when": {"always": true}}`:                                       "stages: is empty",
		`{"version": "1.0.0", "hook": {"path": "/h"}, "when": {"always": true}, "stages": ["later"]}`:                  `stages[0]: "later"`,
	} {
		dir := t.TempDir()
		write(t, dir, "a.json", text)
		if err := Add(&specs.Spec{}, []string{dir}, Container{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
