package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

func testContainer(id, pod, name string, ours bool) container {
	p := &cri.PodSandbox{Metadata: &cri.PodSandboxMetadata{Name: pod, Namespace: "default"}, Labels: map[string]string{}}
	if ours {
		p.Labels[labelCLI] = "run"
	}
	return container{&cri.Container{Id: id, Metadata: &cri.ContainerMetadata{Name: name}}, p}
}

func TestFindContainer(t *testing.T) {
	all := []container{
		testContainer("abc111", "web", "web", true),
		testContainer("abd222", "pod", "app", false),
		testContainer("000333", "pod", "app", false), // an older attempt
		testContainer("111444", "abc", "abc", true),  // its name is the beginning of an id
	}
	for _, test := range []struct{ ref, id, fails string }{
		{"web", "abc111", ""},
		{"default/pod/app", "abd222", ""},
		{"abc111", "abc111", ""},
		{"abd", "abd222", ""},
		{"abc", "111444", ""},
		{"ab", "", "container ab: 2 ids begin like that: abc111 abd222"},
		{"app", "", "no such container: app: see strake ps -a"},
		{"", "", "no such container"},
	} {
		got, err := findContainer(all, test.ref)
		if !fails(t, err, test.fails) && got.Id != test.id {
			t.Errorf("%q: got %s, want %s", test.ref, got.Id, test.id)
		}
	}
}

func TestRandomName(t *testing.T) {
	for range 100 {
		if name := randomName(); !namePattern.MatchString(name) || !strings.Contains(name, "-") {
			t.Errorf("%q is not a good name", name)
		}
	}
}

// The flags, as they reach CRI.
func TestRunOptions(t *testing.T) {
	for _, test := range []struct {
		name  string
		args  string
		check func(p *cri.PodSandboxConfig, c *cri.ContainerConfig) bool
		fails string
	}{
		{"plain", "img", func(p *cri.PodSandboxConfig, c *cri.ContainerConfig) bool {
			return p.Hostname == "name" && c.Image.Image == "img" && c.Command == nil && c.Args == nil && !c.Tty &&
				c.Linux.SecurityContext.NamespaceOptions.Pid == cri.NamespaceMode_CONTAINER
		}, ""},
		{"arguments keep their flags", "-i img ls -l --all", func(_ *cri.PodSandboxConfig, c *cri.ContainerConfig) bool {
			return strings.Join(c.Args, " ") == "ls -l --all" && c.Stdin && c.StdinOnce
		}, ""},
		{"entry point", "--entrypoint /bin/x img a b", func(_ *cri.PodSandboxConfig, c *cri.ContainerConfig) bool {
			return c.Command[0] == "/bin/x" && strings.Join(c.Args, " ") == "a b"
		}, ""},
		{"no entry point", "--entrypoint= img a b", func(_ *cri.PodSandboxConfig, c *cri.ContainerConfig) bool {
			return c.Command[0] == "a" && strings.Join(c.Args, " ") == "b"
		}, ""},
		{"nothing to run", "--entrypoint= img", nil, "the command must follow"},
		{"host network", "--network host img", func(p *cri.PodSandboxConfig, c *cri.ContainerConfig) bool {
			return p.Hostname == "" && p.Linux.SecurityContext.NamespaceOptions.Network == cri.NamespaceMode_NODE
		}, ""},
		{"no network", "--network none img", func(p *cri.PodSandboxConfig, c *cri.ContainerConfig) bool {
			return p.Annotations[strakev1.PodNetwork] == "none"
		}, ""},
		{"limits", "-m 64m --cpus 0.5 img", func(_ *cri.PodSandboxConfig, c *cri.ContainerConfig) bool {
			r := c.Linux.Resources
			return r.MemoryLimitInBytes == 64<<20 && r.CpuQuota == 50_000 && r.CpuPeriod == 100_000
		}, ""},
		{"ports", "-p 8080:80 -p 127.0.0.1:53:53/udp img", func(p *cri.PodSandboxConfig, c *cri.ContainerConfig) bool {
			return len(p.PortMappings) == 2 && c.Annotations[annotationPorts] == "0.0.0.0:8080->80/tcp, 127.0.0.1:53->53/udp"
		}, ""},
		{"rm", "--rm -it img", func(p *cri.PodSandboxConfig, c *cri.ContainerConfig) bool {
			return p.Annotations[strakev1.AutoRemove] == "true" && c.Annotations[annotationStdio] == "it" && c.Envs[0].Key == "TERM"
		}, ""},
		{"log driver", "--log-driver json-file --log-opt max-size=10m --log-opt max-file=3 img", func(_ *cri.PodSandboxConfig, c *cri.ContainerConfig) bool {
			return c.Annotations[strakev1.LogDriver] == "json-file" && c.Annotations[strakev1.LogOptions] == `{"max-file":"3","max-size":"10m"}`
		}, ""},
		{"the node's log driver", "img", func(_ *cri.PodSandboxConfig, c *cri.ContainerConfig) bool {
			_, driver := c.Annotations[strakev1.LogDriver]
			_, options := c.Annotations[strakev1.LogOptions]
			return !driver && !options
		}, ""},
		{"bad log driver", "--log-driver syslog img", nil, `log driver "syslog": choose k8s-file`},
		{"bad log option", "--log-driver json-file --log-opt compress=true img", nil, "log option compress: json-file has max-size and max-file"},
		{"log option without a value", "--log-opt max-size img", nil, "--log-opt max-size: write NAME=VALUE"},
		{"bad network", "--network bridge img", nil, "--network bridge: choose default, host or none"},
		{"port without network", "--network none -p 1:1 img", nil, "-p needs --network default"},
		{"bad name", "--name a/b img", nil, "--name a/b: write letters"},
		{"bad pull", "--pull sometimes img", nil, "choose missing, always or never"},
		{"front and back", "-d -t img", nil, "-d runs in the background"},
		{"bad memory", "-m lots img", nil, `--memory "lots" is not a size`},
	} {
		t.Run(test.name, func(t *testing.T) {
			var o runOptions
			cmd := &cobra.Command{}
			cmd.Flags().SetInterspersed(false)
			o.flags(cmd)
			if err := cmd.ParseFlags(strings.Fields(test.args)); err != nil {
				t.Fatal(err)
			}
			o.hasEntrypoint = cmd.Flags().Changed("entrypoint")
			args := cmd.Flags().Args()
			var pod *cri.PodSandboxConfig
			var c *cri.ContainerConfig
			err := o.check()
			if err == nil {
				pod, err = o.podConfig("name", "nonce")
			}
			if err == nil {
				c, err = o.containerConfig(pod, args[0], append([]string(nil), args[1:]...))
			}
			if !fails(t, err, test.fails) && !test.check(pod, c) {
				t.Errorf("got %v\n%v", pod, c)
			}
		})
	}
}

func TestMessage(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for _, test := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("pull: %w", status.Error(codes.NotFound, "image x: not found")), "pull: image x: not found"},
		{errors.New("a\nb"), "a; b"},
		{fmt.Errorf("container %s: container %s: start", id, id), "container 0123456789ab: start"},
		{errors.New("sha256:" + id), "sha256:" + id},
		{status.Error(codes.Unavailable, "registry unavailable"), "registry unavailable"},
		{status.Error(codes.Unavailable, "error reading from server: EOF"), "straked went away: see its log, start it again, and repeat the command"},
	} {
		if got := message(test.err); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

func TestProcessError(t *testing.T) {
	for _, test := range []struct {
		err  error
		code int
	}{
		{status.Error(codes.Unknown, `exec in container x: exec "nope": no such file or directory`), exitNotFound},
		{status.Error(codes.Unknown, `exec in container x: exec "/etc": is a directory`), exitCannot},
		{errors.New("no network"), exitStrake},
		{interrupted{2}, 130},
		{&exitError{code: 3}, 3},
	} {
		var e *exitError
		if err := processError(test.err); !errors.As(err, &e) || e.code != test.code {
			t.Errorf("%v: got %v, want code %d", test.err, err, test.code)
		}
	}
}

func TestTexts(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	for d, want := range map[time.Duration]string{
		0: "less than a second", time.Second: "1 second", 90 * time.Second: "1 minute", 5 * time.Hour: "5 hours",
		25 * time.Hour: "1 day", 15 * 24 * time.Hour: "2 weeks", -time.Hour: "less than a second",
	} {
		if got := duration(now, now.Add(-d).UnixNano()); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
	for n, want := range map[uint64]string{0: "0 B", 999: "999 B", 1000: "1 kB", 1_500_000: "1.5 MB", 999_999: "1 MB", 12_345_678_901: "12.3 GB"} {
		if got := sizeText(n); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
}

func TestImageRows(t *testing.T) {
	got := fmt.Sprint(imageRows(&cri.Image{
		RepoTags:    []string{"localhost:5000/a/b:1", "docker.io/library/x:latest"},
		RepoDigests: []string{"localhost:5000/a/b@sha256:aa", "quay.io/c@sha256:bb"},
	}))
	want := "[{docker.io/library/x latest <none>} {localhost:5000/a/b 1 sha256:aa} {quay.io/c <none> sha256:bb}]"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestProgress(t *testing.T) {
	news := []*strakev1.LayerProgress{
		{Layer: "sha256:aaaaaaaaaaaaaaaa", Phase: "pulling", Done: 500, Total: 1000},
		{Layer: "sha256:bbbbbbbbbbbbbbbb", Phase: "exists"},
		{Layer: "sha256:aaaaaaaaaaaaaaaa", Phase: "done", Done: 1000, Total: 1000},
	}
	var plain, terminal bytes.Buffer
	p, q := newProgress(&plain, 0), newProgress(&terminal, 60)
	for _, n := range news {
		p.update(n)
		q.update(n)
	}
	p.finish()
	q.finish()
	if want := "bbbbbbbbbbbb: Already exists\naaaaaaaaaaaa: Done\n"; plain.String() != want {
		t.Errorf("got %q, want %q", plain.String(), want)
	}
	if !strings.Contains(terminal.String(), ">") || !strings.Contains(terminal.String(), "500 B/1 kB") {
		t.Errorf("no bar: %q", terminal.String())
	}
	for line := range strings.Lines(terminal.String()) {
		if bare := regexp.MustCompile("\x1b\\[[0-9]*[AK]|[\r\n]").ReplaceAllString(line, ""); len(bare) > 59 {
			t.Errorf("%d characters: %q", len(bare), bare)
		}
	}
}

// strake runs the command line in this process.
func strake(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	files := make([]*os.File, 2)
	for i := range files {
		f, err := os.Create(filepath.Join(t.TempDir(), "out"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	code = Main(t.Context(), args, null, files[0], files[1])
	var text [2]string
	for i, f := range files {
		b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
		if err != nil {
			t.Fatal(err)
		}
		text[i] = string(b)
	}
	return code, text[0], text[1]
}

// Without a daemon, and with arguments that need none to be refused.
func TestMain_errors(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "no.sock")
	for _, test := range []struct {
		args string
		code int
		says string
	}{
		{"ps", 1, "strake: straked is not running at " + socket + ": start it"},
		{"run img", 125, "straked is not running"},
		{"run", 125, "strake: run needs an image; see strake run --help"},
		{"run --bogus img", 125, "unknown flag: --bogus; see strake run --help"},
		{"run --network x img", 125, "--network x: choose"},
		{"run -w rel img", 125, "-w rel: write an absolute path"},
		{"exec c", 125, "strake: exec needs a container and a command"},
		{"stop", 1, "strake: stop needs a container"},
		{"logs a b", 1, "strake: logs needs one container"},
		{"ps x", 1, `strake: ps takes no arguments, not "x"`},
		{"nosuch", 1, `strake: no command "nosuch"; see strake --help`},
		{"sto", 1, `strake: no command "sto" (did you mean stop?); see strake --help`},
		{"pod lss", 1, `strake: no command "lss" (did you mean ls?); see strake pod --help`},
		{"completion sh", 1, `strake: no command "sh"`},
		{"stop -t x c", 1, `invalid argument "x" for "-t, --time" flag: invalid syntax; see strake stop --help`},
	} {
		t.Run(test.args, func(t *testing.T) {
			code, stdout, stderr := strake(t, append([]string{"--address", socket}, strings.Fields(test.args)...)...)
			if code != test.code || stdout != "" || !strings.Contains(stderr, test.says) || strings.Count(stderr, "\n") != 1 {
				t.Errorf("code %d, %q, %q; want %d, one line with %q", code, stdout, stderr, test.code, test.says)
			}
		})
	}
}
