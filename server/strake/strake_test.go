package strake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/strake-containers/strake/image"
	"github.com/strake-containers/strake/pod"
	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

// unused has a name that no method has.
type unused = Pods

// fakePods holds pods of one container each, named alike.
type fakePods struct {
	unused // what a test does not use

	mu      sync.Mutex
	pods    map[string]pod.PodStatus
	states  map[string]pod.ContainerState
	events  chan *pod.Event
	removed chan string
	subs    chan struct{} // one for each Subscribe
}

func newFakePods() *fakePods {
	return &fakePods{
		pods: map[string]pod.PodStatus{}, states: map[string]pod.ContainerState{},
		events: make(chan *pod.Event, 10), removed: make(chan string, 10), subs: make(chan struct{}, 10),
	}
}

func (f *fakePods) add(id, auto string, state pod.ContainerState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pods[id] = pod.PodStatus{ID: id, Config: pod.PodConfig{Name: id, Annotations: map[string]string{strakev1.AutoRemove: auto}}}
	f.states[id] = state
}

// exit has the container of a pod end, and says so.
func (f *fakePods) exit(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.states[id] = pod.ContainerExited
	f.events <- &pod.Event{Type: pod.EventStopped, Pod: f.pods[id], Containers: []pod.ContainerStatus{{ID: id, State: pod.ContainerExited}}}
}

func (f *fakePods) Pod(id string) (pod.PodStatus, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p, ok := f.pods[id]; ok {
		return p, nil
	}
	return pod.PodStatus{}, fmt.Errorf("pod %s: %w", id, pod.ErrNotFound)
}

func (f *fakePods) Pods(pod.PodFilter) (all []pod.PodStatus) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.pods {
		all = append(all, p)
	}
	return all
}

func (f *fakePods) Containers(filter pod.ContainerFilter) []pod.ContainerStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := pod.ContainerStatus{ID: filter.PodID, State: f.states[filter.PodID]}
	if c.State != pod.ContainerCreated {
		c.StartedAt = time.Unix(1, 0)
	}
	return []pod.ContainerStatus{c}
}

func (f *fakePods) Subscribe() (<-chan *pod.Event, func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.subs <- struct{}{}
	return f.events, func() {}
}

func (f *fakePods) StopPod(context.Context, string) error { return nil }

func (f *fakePods) RemovePod(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.pods, id)
	f.removed <- id
	return nil
}

func (f *fakePods) wantRemoved(t *testing.T, want string) {
	t.Helper()
	select {
	case id := <-f.removed:
		if id != want {
			t.Errorf("removed %s, want %s", id, want)
		}
	case <-time.After(time.Minute):
		t.Fatalf("%s was not removed", want)
	}
}

var quiet = slog.New(slog.DiscardHandler)

func TestReaper(t *testing.T) {
	f := newFakePods()
	f.add("ended before", "true", pod.ContainerExited)
	f.add("not asked for", "", pod.ContainerExited)
	f.add("runs", "true", pod.ContainerRunning)
	f.add("held", "true", pod.ContainerRunning)
	r := newReaper(f, quiet)
	ctx, cancel := context.WithCancel(t.Context())
	r.hold("held")
	done := r.start(ctx)

	f.wantRemoved(t, "ended before")
	f.exit("held")
	f.exit("runs")
	f.wantRemoved(t, "runs") // and not the one that ended before it
	r.release(ctx, "held")
	f.wantRemoved(t, "held")

	// Who made it went away before it was started, or while it ran.
	f.add("never started", "true", pod.ContainerCreated)
	r.hold("never started")
	r.hold("runs on")
	f.add("runs on", "true", pod.ContainerRunning)
	r.release(ctx, "runs on")
	r.release(ctx, "never started")
	f.wantRemoved(t, "never started")

	// When it was too slow for the events, it looks again.
	<-f.subs
	f.add("missed", "true", pod.ContainerExited)
	f.mu.Lock()
	close(f.events)
	f.events = make(chan *pod.Event)
	f.mu.Unlock()
	f.wantRemoved(t, "missed")

	cancel()
	<-done
	if _, err := f.Pod("not asked for"); err != nil {
		t.Error(err)
	}
	if len(f.removed) > 0 {
		t.Errorf("removed %s", <-f.removed)
	}
}

// A pod whose maker has gone before anything ran in it is removed: at once, or when
// the maker has had time to come back to another daemon. Others stay.
func TestOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakePods()
		own := func(id, owner string, state pod.ContainerState) {
			f.add(id, "", state)
			f.pods[id].Config.Annotations[strakev1.Owner] = owner
		}
		own("left", "dead", pod.ContainerCreated)
		own("comes back", "back", pod.ContainerCreated)
		own("detached", "dead", pod.ContainerRunning)
		f.add("a kubelet's", "", pod.ContainerCreated)
		r := newReaper(f, quiet)
		ctx, cancel := context.WithCancel(t.Context())
		done := r.start(ctx)
		r.hold("back")
		synctest.Wait()
		if len(f.removed) > 0 {
			t.Errorf("%s was removed before its owner could come back", <-f.removed)
		}
		time.Sleep(ownerTimeout + time.Second)
		f.wantRemoved(t, "left")
		r.release(ctx, "back")
		f.wantRemoved(t, "comes back")

		// Its maker is killed while it is being made.
		own("late", "killed", pod.ContainerCreated)
		f.events <- &pod.Event{Type: pod.EventStarted, PodID: "late", ContainerID: "late", Pod: f.pods["late"]}
		f.wantRemoved(t, "late")
		// Or after that.
		r.hold("runner")
		own("made", "runner", pod.ContainerCreated)
		f.events <- &pod.Event{Type: pod.EventStarted, PodID: "made", ContainerID: "made", Pod: f.pods["made"]}
		synctest.Wait()
		r.release(ctx, "runner")
		f.wantRemoved(t, "made")
		cancel()
		<-done
		if len(f.removed) > 0 {
			t.Errorf("removed %s", <-f.removed)
		}
	})
}

// dial serves the service over a socket and connects to it.
func dial(t *testing.T, ctx context.Context, d Deps) strakev1.StrakeClient {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	d.Log = quiet
	Register(ctx, server, d)
	go func() { _ = server.Serve(l) }() // it ends with Stop
	conn, err := grpc.NewClient("unix://"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(); server.Stop() })
	return strakev1.NewStrakeClient(conn)
}

func (f *fakePods) WaitContainer(ctx context.Context, id string) (pod.ContainerStatus, error) {
	<-ctx.Done()
	return pod.ContainerStatus{}, fmt.Errorf("wait for %s: %w", id, ctx.Err())
}

// A daemon that stops ends the calls that wait, and tells the clients to come
// back.
func TestEnding(t *testing.T) {
	f := newFakePods()
	f.add("p", "true", pod.ContainerRunning)
	ctx, stop := context.WithCancel(t.Context())
	c := dial(t, ctx, Deps{Pods: f})
	held, err := c.Hold(t.Context(), &strakev1.HoldRequest{PodId: "p"})
	if err == nil {
		_, err = held.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	waited := make(chan error)
	go func() {
		_, err := c.WaitContainer(t.Context(), &strakev1.WaitContainerRequest{ContainerId: "p"})
		waited <- err
	}()
	stop()
	if err := <-waited; status.Code(err) != codes.Unavailable {
		t.Errorf("wait: %v", err)
	}
	if _, err := held.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("hold: %v", err)
	}
}

// echo is a process: its exit code is the number of bytes that it has read.
func (f *fakePods) Exec(ctx context.Context, id string, c pod.ExecConfig, s pod.Streams) (int, error) {
	if id == "nosuch" {
		return 0, fmt.Errorf("container %s: %w", id, pod.ErrNotFound)
	}
	z := <-s.Resize
	fmt.Fprintf(s.Stdout, "%v %v %s %s %v", c.Cmd, c.Env, c.User, c.WorkingDir, z)
	n, err := io.Copy(s.Stderr, s.Stdin)
	return int(n), err
}

func TestExec(t *testing.T) {
	c := dial(t, t.Context(), Deps{Pods: newFakePods()})
	exec := func(start *strakev1.ExecStart, more ...*strakev1.Input) (stdout, stderr string, code int32, err error) {
		stream, err := c.Exec(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, in := range append([]*strakev1.Input{{Event: &strakev1.Input_Exec{Exec: start}}}, more...) {
			_ = stream.Send(in) // a refusal shows in Recv
		}
		for {
			out, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return stdout, stderr, code, nil
			}
			if err != nil {
				return "", "", 0, err
			}
			stdout += string(out.GetStdout())
			stderr += string(out.GetStderr())
			code += out.GetExit().GetCode()
		}
	}
	start := &strakev1.ExecStart{ContainerId: "c", Command: []string{"a", "b"}, Env: []string{"X=y=z"}, User: "u", WorkingDir: "/w",
		Stdin: true, Size: &strakev1.Size{Width: 80, Height: 24}}
	stdout, stderr, code, err := exec(start,
		&strakev1.Input{Event: &strakev1.Input_Stdin{Stdin: []byte("hello")}},
		&strakev1.Input{Event: &strakev1.Input_CloseStdin{CloseStdin: &strakev1.CloseStdin{}}})
	if err != nil || stdout != "[a b] [{X y=z}] u /w {80 24}" || stderr != "hello" || code != 5 {
		t.Errorf("got %q, %q, %d, %v", stdout, stderr, code, err)
	}
	for _, test := range []struct {
		start *strakev1.ExecStart
		code  codes.Code
	}{
		{nil, codes.InvalidArgument},
		{&strakev1.ExecStart{ContainerId: "c"}, codes.InvalidArgument},
		{&strakev1.ExecStart{ContainerId: "c", Command: []string{"a"}, Env: []string{"noequals"}}, codes.InvalidArgument},
		{&strakev1.ExecStart{ContainerId: "nosuch", Command: []string{"a"}}, codes.NotFound},
	} {
		if _, _, _, err := exec(test.start); status.Code(err) != test.code {
			t.Errorf("%v: %v, want %v", test.start, err, test.code)
		}
	}
}

// Attach shows the size that it can know before it is connected.
func (f *fakePods) Attach(_ context.Context, _ string, s pod.Streams) error {
	select {
	case z := <-s.Resize:
		_, err := fmt.Fprint(s.Stdout, z)
		return err
	default:
		return errors.New("no size")
	}
}

// The size comes with the request to attach: what comes behind it may be late.
func TestAttachSize(t *testing.T) {
	c := dial(t, t.Context(), Deps{Pods: newFakePods()})
	stream, err := c.Attach(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	start := &strakev1.AttachStart{ContainerId: "c", Output: true, Size: &strakev1.Size{Width: 80, Height: 24}}
	if err := stream.Send(&strakev1.Input{Event: &strakev1.Input_Attach{Attach: start}}); err != nil {
		t.Fatal(err)
	}
	if out, err := stream.Recv(); err != nil || string(out.GetStdout()) != "{80 24}" {
		t.Errorf("got %v, %v", out, err)
	}
}

// fakeImages pulls three layers, with more news than anybody wants.
type fakeImages struct{ Images }

func (fakeImages) Pull(_ context.Context, ref string, o image.PullOptions) (image.Image, error) {
	if strings.Contains(ref, "private") {
		if o.Auth == nil || o.Auth.Username != "u" {
			return image.Image{}, fmt.Errorf("%s: %w", ref, image.ErrUnauthorized)
		}
	}
	var wg sync.WaitGroup
	for _, layer := range []digest.Digest{"sha256:a", "sha256:b", "sha256:c"} {
		wg.Go(func() {
			for i := range int64(10_000) {
				o.Progress(image.Progress{Layer: layer, Phase: image.PhasePulling, Done: i, Total: 10_000})
			}
			o.Progress(image.Progress{Layer: layer, Phase: image.PhaseDone, Done: 10_000, Total: 10_000})
		})
	}
	wg.Wait()
	return image.Image{ID: "sha256:id"}, nil
}

func (fakeImages) Sign(_ context.Context, ref string, o image.SignOptions, signer func([]byte) ([]byte, error)) ([]image.Signed, error) {
	var all []image.Signed
	for _, d := range []digest.Digest{"sha256:a", "sha256:b"} {
		signature, err := signer([]byte(ref + " is " + d.String()))
		if err != nil {
			return all, err
		}
		all = append(all, image.Signed{Digest: d, Where: fmt.Sprintf("%s %s %s %s: %s", o.Kind, o.In, o.Identity, o.Auth.Username, signature)})
	}
	return all, nil
}

// Payloads go out, signatures come back, and at the end what was stored.
func TestSignImage(t *testing.T) {
	c := dial(t, t.Context(), Deps{Pods: newFakePods(), Images: fakeImages{}})
	stream, err := c.SignImage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	send := func(r *strakev1.SignImageRequest) {
		t.Helper()
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
	}
	send(&strakev1.SignImageRequest{Event: &strakev1.SignImageRequest_Start{Start: &strakev1.SignStart{
		Reference: "a", In: "in", Identity: "as", Kind: "sigstore", Auth: &strakev1.Auth{Username: "u"}}}})
	var got []string
	for {
		news, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if one := news.GetSigned(); one != nil {
			got = append(got, one.Digest+" "+one.Where)
			continue
		}
		send(&strakev1.SignImageRequest{Event: &strakev1.SignImageRequest_Signature{Signature: append([]byte("signed "), news.GetPayload()...)}})
	}
	want := "[sha256:a sigstore in as u: signed a is sha256:a sha256:b sigstore in as u: signed a is sha256:b]"
	if fmt.Sprint(got) != want {
		t.Errorf("got %v", got)
	}
	if stream, err = c.SignImage(t.Context()); err != nil {
		t.Fatal(err)
	}
	send(&strakev1.SignImageRequest{})
	if _, err := stream.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("without a start: %v", err)
	}
}

func (fakeImages) Referrers(_ context.Context, ref, artifactType string, _ *image.Auth) (digest.Digest, []v1.Descriptor, error) {
	if ref != "a" {
		return "", nil, fmt.Errorf("%s: %w", ref, image.ErrNotFound)
	}
	return "sha256:a", []v1.Descriptor{{MediaType: "m", Digest: "sha256:b", Size: 3, ArtifactType: artifactType, Annotations: map[string]string{"k": "v"}}}, nil
}

func TestListReferrers(t *testing.T) {
	c := dial(t, t.Context(), Deps{Pods: newFakePods(), Images: fakeImages{}})
	r, err := c.ListReferrers(t.Context(), &strakev1.ListReferrersRequest{Reference: "a", ArtifactType: "t"})
	if err != nil || r.Digest != "sha256:a" || len(r.Referrers) != 1 || r.Referrers[0].ArtifactType != "t" || r.Referrers[0].Annotations["k"] != "v" || r.Referrers[0].Size != 3 {
		t.Errorf("%v %v", r, err)
	}
	if _, err := c.ListReferrers(t.Context(), &strakev1.ListReferrersRequest{Reference: "b"}); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
}

// The last state of every layer arrives, and then the image.
func TestPull(t *testing.T) {
	c := dial(t, t.Context(), Deps{Pods: newFakePods(), Images: fakeImages{}})
	pull := func(ref string, auth *strakev1.Auth) (last map[string]string, id string, messages int, err error) {
		stream, err := c.Pull(t.Context(), &strakev1.PullRequest{Reference: ref, Auth: auth})
		if err != nil {
			t.Fatal(err)
		}
		last = map[string]string{}
		for {
			news, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return last, id, messages, nil
			}
			if err != nil {
				return nil, "", 0, err
			}
			messages++
			if p := news.GetProgress(); p != nil {
				last[p.Layer] = p.Phase
			}
			id += news.GetImage().GetId()
		}
	}
	last, id, messages, err := pull("public", nil)
	if err != nil || id != "sha256:id" || messages > 1000 || fmt.Sprint(last) != "map[sha256:a:done sha256:b:done sha256:c:done]" {
		t.Errorf("got %v, %s, %d messages, %v", last, id, messages, err)
	}
	if _, _, _, err := pull("private", nil); status.Code(err) != codes.Unauthenticated {
		t.Errorf("without credentials: %v", err)
	}
	if _, id, _, err := pull("private", &strakev1.Auth{Username: "u"}); err != nil || id != "sha256:id" {
		t.Errorf("with credentials: %s, %v", id, err)
	}
}
