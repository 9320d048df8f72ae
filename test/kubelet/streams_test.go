package kubelet

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"
)

// logsPod says more than a log file may hold, and never stops.
const logsPod = `
apiVersion: v1
kind: Pod
metadata: {name: logs}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: {{.Image}}
    command: [sh, -c, "i=0; while true; do for j in 1 2 3 4 5 6 7 8 9 10; do i=$((i+1)); echo line $i; done; sleep .2; done"]
`

func checkLogs(p *pod) {
	s := p.awaitReady()
	dir := filepath.Join(p.k.dir, "logs", "default_"+p.fullName()+"_"+s.Metadata.UID, "main")

	// 1. The kubelet rotates, and no line is lost or doubled.
	p.k.until(p.t, "the log was rotated three times", func() bool {
		rotated, _ := filepath.Glob(dir + "/0.log.*-*") // a constant pattern
		return len(rotated) >= 3
	}, func() any { return dir })
	var lines []int
	p.k.until(p.t, "all of the log was read between two rotations", func() (whole bool) {
		lines, whole = p.logLines(dir)
		return whole
	}, func() any { return len(lines) })
	slices.Sort(lines)
	for i, n := range lines {
		if n != lines[0]+i {
			p.t.Fatalf("line %d comes where line %d should", n, lines[0]+i)
		}
	}

	// 2. The kubelet's handler follows it over rotations.
	u := p.k.https("/containerLogs/default/" + p.fullName() + "/main?follow=true&tailLines=1")
	request, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, u.String(), nil)
	if err != nil {
		p.t.Fatal(err)
	}
	response, err := httpsClient.Do(request)
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	followed := bufio.NewScanner(response.Body)
	first := 0
	for i := range 600 { // some 24 KiB in the file
		if !followed.Scan() {
			p.t.Fatalf("the log ended after %d lines: %v", i, followed.Err())
		}
		n, err := strconv.Atoi(strings.TrimPrefix(followed.Text(), "line "))
		if first == 0 {
			first = n
		}
		if err != nil || n != first+i {
			p.t.Fatalf("%q comes where line %d should", followed.Text(), first+i)
		}
	}

	// 3. Its other questions. A file that was just made is empty.
	var got string
	p.k.until(p.t, "four bytes of it were read", func() bool {
		got = p.log("main", "limitBytes=4")
		return got == "line"
	}, func() any { return got })
	p.k.until(p.t, "a line with its time was read", func() bool {
		got = p.log("main", "timestamps=true&tailLines=1")
		stamp, line, _ := strings.Cut(got, " ")
		_, err := time.Parse(time.RFC3339Nano, stamp)
		return err == nil && strings.HasPrefix(line, "line ")
	}, func() any { return got })
}

// logLines reads the numbers of all lines in the log's files. They are not whole
// if the kubelet rotated or compressed one meanwhile.
func (p *pod) logLines(dir string) (lines []int, whole bool) {
	p.t.Helper()
	names := func() []string {
		entries, err := os.ReadDir(dir)
		if err != nil {
			p.t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	before := names()
	for _, name := range before {
		content, err := readLog(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) || strings.HasSuffix(name, ".tmp") {
			return nil, false
		}
		if err != nil {
			p.t.Fatal(err)
		}
		for line := range strings.Lines(content) {
			if !strings.HasSuffix(line, "\n") {
				break // being written
			}
			n, err := strconv.Atoi(strings.TrimSpace(line[strings.LastIndex(line, " ")+1:]))
			if err != nil {
				p.t.Fatalf("%s has %q", name, line)
			}
			lines = append(lines, n)
		}
	}
	return lines, slices.Equal(before, names())
}

func readLog(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			return "", err
		}
	}
	content, err := io.ReadAll(r)
	return string(content), err
}

// streamsPod is for kubectl's exec, attach and port-forward.
const streamsPod = `
apiVersion: v1
kind: Pod
metadata: {name: streams}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: {{.Image}}}
  - {name: cat, image: {{.Image}}, command: [cat], stdin: true}
  - {name: shell, image: {{.Image}}, command: [sh], stdin: true, tty: true}
  - name: web
    image: {{.Image}}
    command: [sh, -c, "echo forwarded > /tmp/index.html; exec httpd -f -h /tmp -p 127.0.0.1:8080"]
    readinessProbe: {exec: {command: [wget, -q, -O-, "http://127.0.0.1:8080/"]}, periodSeconds: 1, timeoutSeconds: 30}
`

// executors make a streaming client of each protocol.
var executors = map[string]func(u *url.URL) (remotecommand.Executor, error){
	"spdy": func(u *url.URL) (remotecommand.Executor, error) {
		return remotecommand.NewSPDYExecutor(clientConfig, http.MethodPost, u)
	},
	"websocket": func(u *url.URL) (remotecommand.Executor, error) {
		return remotecommand.NewWebSocketExecutorForProtocols(clientConfig, http.MethodGet, u.String(), "v5.channel.k8s.io", "v4.channel.k8s.io")
	},
}

func checkStreams(p *pod) {
	p.awaitReady()
	ctx, cancel := context.WithTimeout(p.t.Context(), *patience)
	defer cancel()
	for protocol, executor := range executors {
		stream := func(u *url.URL, o remotecommand.StreamOptions) error {
			e, err := executor(u)
			if err != nil {
				return err
			}
			return e.StreamWithContext(ctx, o)
		}
		// 1. exec: both outputs, the exit code, a terminal's size.
		var out, errOut bytes.Buffer
		err := stream(p.streamURL("exec", "main", url.Values{"command": {"sh", "-c", "read x; echo got $x; echo err >&2; exit 9"}, "input": {"1"}, "output": {"1"}, "error": {"1"}}),
			remotecommand.StreamOptions{Stdin: strings.NewReader("hello\n"), Stdout: &out, Stderr: &errOut})
		var exit utilexec.ExitError
		if !errors.As(err, &exit) || exit.ExitStatus() != 9 || out.String() != "got hello\n" || errOut.String() != "err\n" {
			p.t.Errorf("%s: exec: %q, %q, %v", protocol, &out, &errOut, err)
		}
		out.Reset()
		err = stream(p.streamURL("exec", "main", url.Values{"command": {"sh", "-c", "until [ \"$(stty size 2>/dev/null)\" = '31 97' ]; do sleep .1; done; echo resized"}, "input": {"1"}, "output": {"1"}, "tty": {"1"}}),
			remotecommand.StreamOptions{Stdin: eternal{ctx}, Stdout: &out, Tty: true, TerminalSizeQueue: &oneSize{&remotecommand.TerminalSize{Width: 97, Height: 31}}})
		if err != nil || out.String() != "resized\r\n" {
			p.t.Errorf("%s: exec on a terminal: %q, %v", protocol, &out, err)
		}
		// 2. attach to pipes and to a terminal; then let go.
		for container, tty := range map[string]bool{"cat": false, "shell": true} {
			attached, letGo := context.WithCancel(ctx)
			said, query := make(chan struct{}), url.Values{"input": {"1"}, "output": {"1"}}
			options := remotecommand.StreamOptions{Stdin: io.MultiReader(strings.NewReader("echo $((20+3))"+protocol+"\n"), eternal{attached}), Tty: tty}
			want := "echo $((20+3))" + protocol
			if tty {
				query.Set("tty", "1")
				want = "23" + protocol
			} else {
				query.Set("error", "1")
				options.Stderr = io.Discard
			}
			options.Stdout = &waitWriter{want: want, said: said}
			e, err := executor(p.streamURL("attach", container, query))
			if err != nil {
				p.t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() {
				_ = e.StreamWithContext(attached, options) // its error is our own cancellation
				close(ended)
			}()
			select {
			case <-said:
			case <-ended:
				p.t.Errorf("%s: attach to %s ended", protocol, container)
			case <-ctx.Done():
				p.t.Errorf("%s: attach to %s: nothing comes back", protocol, container)
			}
			letGo()
			<-ended
		}
	}
	if s := p.status(); !s.ready() || s.container("cat").RestartCount != 0 || s.container("shell").RestartCount != 0 {
		p.t.Errorf("after the clients have gone: %+v", s.Status)
	}
	p.checkForward()
}

// checkForward fetches a page by the kubelet's port-forward, over SPDY.
func (p *pod) checkForward() {
	p.t.Helper()
	transport, upgrader, err := spdy.RoundTripperFor(clientConfig)
	if err != nil {
		p.t.Fatal(err)
	}
	u := p.k.https("/portForward/default/" + p.fullName())
	stop, ready := make(chan struct{}), make(chan struct{})
	var errOut bytes.Buffer
	fw, err := portforward.New(spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u), []string{"0:8080"}, stop, ready, io.Discard, &errOut)
	if err != nil {
		p.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- fw.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-ended:
		p.t.Fatal(err)
	}
	ports, err := fw.GetPorts()
	if err != nil {
		p.t.Fatal(err)
	}
	for range 3 {
		if page := p.get(fmt.Sprintf("http://127.0.0.1:%d/", ports[0].Local)); page != "forwarded\n" {
			p.t.Errorf("forwarded: %q", page)
		}
	}
	close(stop)
	if err := <-ended; err != nil || errOut.Len() > 0 {
		p.t.Errorf("port-forward: %v, %s", err, &errOut)
	}
}

type oneSize struct{ size *remotecommand.TerminalSize }

func (o *oneSize) Next() *remotecommand.TerminalSize {
	size := o.size
	o.size = nil
	return size
}

// eternal is a stdin on which nothing comes until ctx ends.
type eternal struct{ ctx context.Context }

func (e eternal) Read([]byte) (int, error) {
	<-e.ctx.Done()
	return 0, io.EOF
}

// waitWriter closes said once want was written.
type waitWriter struct {
	want string
	said chan struct{}
	got  strings.Builder
}

func (w *waitWriter) Write(b []byte) (int, error) {
	before := strings.Contains(w.got.String(), w.want)
	w.got.Write(b)
	if !before && strings.Contains(w.got.String(), w.want) {
		close(w.said)
	}
	return len(b), nil
}
