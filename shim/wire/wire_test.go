package wire

import (
	"bytes"
	"context"
	"errors"
	"math"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/strake-containers/strake/internal/pb"
	"github.com/strake-containers/strake/internal/testutil"
	"github.com/strake-containers/strake/shim/api"
)

type createRequest struct {
	ID       string   `pb:"1"`
	Rootfs   []*mount `pb:"3"`
	Terminal bool     `pb:"4"`
	Options  *Any     `pb:"10"`
}

type mount struct {
	Type    string   `pb:"1"`
	Options []string `pb:"4"`
}

// numbers is api.CgroupStats and PressureLine, for the kinds of numbers.
type numbers struct {
	Time     int64     `pb:"1"`
	Pids     uint64    `pb:"4"`
	Pressure *pressure `pb:"8"`
}

type pressure struct {
	Some *line `pb:"1"`
}

type line struct {
	Avg10 float64 `pb:"1"`
	Total uint64  `pb:"4"`
}

type small struct {
	Code int32 `pb:"3"`
}

type stamp struct {
	Seconds int64 `pb:"1"`
	Nanos   int32 `pb:"2"`
}

// What protobuf itself encodes is decoded, and the other way round.
func TestAgainstProtobuf(t *testing.T) {
	for name, c := range map[string]struct {
		theirs proto.Message
		ours   any
	}{
		"empty": {&taskapi.CreateTaskRequest{}, &createRequest{}},
		"create": {
			&taskapi.CreateTaskRequest{
				ID: "c", Terminal: true,
				Rootfs:  []*types.Mount{{Type: "overlay", Options: []string{"a", "", "b"}}, {}},
				Options: &anypb.Any{TypeUrl: "u", Value: []byte{0, 1}},
			},
			&createRequest{"c", []*mount{{"overlay", []string{"a", "", "b"}}, {}}, true, &Any{"u", []byte{0, 1}}},
		},
		"numbers": {
			&api.CgroupStats{
				Time: -5, PidsCurrent: math.MaxUint64,
				CpuPressure: &api.Pressure{Some: &api.PressureLine{Avg10: -1.5, Total: 1 << 40}},
			},
			&numbers{-5, math.MaxUint64, &pressure{&line{-1.5, 1 << 40}}},
		},
		"negative int32": {&api.ExecSyncResponse{ExitCode: -7}, &small{-7}},
		"time":           {timestamppb.New(time.Unix(-3, 5)), &stamp{-3, 5}},
	} {
		t.Run(name, func(t *testing.T) {
			ours, err := pb.Marshal(c.ours)
			if err != nil {
				t.Fatal(err)
			}
			theirs := proto.Clone(c.theirs)
			proto.Reset(theirs)
			if err := proto.Unmarshal(ours, theirs); err != nil || !proto.Equal(theirs, c.theirs) {
				t.Errorf("protobuf reads %v, %v; want %v", theirs, err, c.theirs)
			}
			data, err := proto.Marshal(c.theirs)
			if err != nil {
				t.Fatal(err)
			}
			back := reflect.New(reflect.TypeOf(c.ours).Elem()).Interface()
			if err := pb.Unmarshal(data, back); err != nil || !reflect.DeepEqual(back, c.ours) {
				t.Errorf("we read %+v, %v; want %+v", back, err, c.ours)
			}
		})
	}
}

func TestMap(t *testing.T) {
	type message struct {
		Info map[string]string `pb:"4"`
	}
	want := message{map[string]string{"a": "1", "": "x", "b": ""}}
	data, err := pb.Marshal(&want)
	if err != nil {
		t.Fatal(err)
	}
	var got message
	if err := pb.Unmarshal(data, &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
}

// Whatever comes is decoded or refused, as protobuf does, and never panics.
func FuzzUnmarshal(f *testing.F) {
	data, err := proto.Marshal(&taskapi.CreateTaskRequest{ID: "c", Rootfs: []*types.Mount{{Options: []string{"x"}}}, Options: &anypb.Any{Value: []byte("v")}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte{0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		var ours createRequest
		if pb.Unmarshal(data, &ours) != nil {
			return
		}
		again, err := pb.Marshal(&ours)
		if err != nil {
			t.Fatal(err)
		}
		var back createRequest
		if err := pb.Unmarshal(again, &back); err != nil || !reflect.DeepEqual(ours, back) {
			t.Errorf("%+v, then %+v, %v", ours, back, err)
		}
	})
}

// serve starts a server with a few methods of the Task service.
func serve(t *testing.T) (path string, s *Server) {
	t.Helper()
	testutil.CheckLeaks(t)
	path = filepath.Join(t.TempDir(), strings.Repeat("long", 30), "socket")
	l := listenIn(t, path)
	s = NewServer()
	s.Handle("containerd.task.v3.Task", "Start", Method(func(_ context.Context, r *struct {
		ID string `pb:"1"`
	}) (*struct {
		Pid uint32 `pb:"1"`
	}, error) {
		if r.ID == "missing" {
			return nil, Errorf(NotFound, "container %s: not found", r.ID)
		}
		return &struct {
			Pid uint32 `pb:"1"`
		}{uint32(len(r.ID))}, nil
	}))
	s.Handle("containerd.task.v3.Task", "Wait", Method(func(ctx context.Context, _ *Empty) (*Empty, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}))
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return path, s
}

func listenIn(t *testing.T, path string) *net.UnixListener {
	t.Helper()
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// containerd's own client gets answers, error codes and timeouts.
func TestServerWithTTRPC(t *testing.T) {
	path, _ := serve(t)
	conn, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	c := ttrpc.NewClient(conn)
	defer c.Close()
	task := taskapi.NewTTRPCTaskClient(c)
	for _, id := range []string{"abc", strings.Repeat("x", 3<<20)} {
		if r, err := task.Start(t.Context(), &taskapi.StartRequest{ID: id}); err != nil || r.Pid != uint32(len(id)) {
			t.Errorf("start: %v, %v", r, err)
		}
	}
	_, err = task.Start(t.Context(), &taskapi.StartRequest{ID: "missing"})
	if s, _ := grpcstatus.FromError(err); s.Code() != codes.NotFound || s.Message() != "container missing: not found" {
		t.Errorf("error: %v", err)
	}
	if _, err := task.Pids(t.Context(), &taskapi.PidsRequest{}); grpcstatus.Code(err) != codes.Unimplemented {
		t.Errorf("unknown method: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := task.Wait(ctx, &taskapi.WaitRequest{}); !errors.Is(err, context.DeadlineExceeded) && grpcstatus.Code(err) != codes.DeadlineExceeded {
		t.Errorf("timeout: %v", err)
	}
}

func TestClient(t *testing.T) {
	path, _ := serve(t)
	conn, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	c := NewClient(conn)
	defer c.Close()
	var answer struct {
		Pid uint32 `pb:"1"`
	}
	for _, id := range []string{"a", "abcd"} {
		req := struct {
			ID string `pb:"1"`
		}{id}
		if err := c.Call(t.Context(), "containerd.task.v3.Task", "Start", &req, &answer, "k", "v"); err != nil || answer.Pid != uint32(len(id)) {
			t.Errorf("start: %v, %v", answer, err)
		}
	}
	req := struct {
		ID string `pb:"1"`
	}{"missing"}
	var e *Error
	if err := c.Call(t.Context(), "containerd.task.v3.Task", "Start", &req, &answer); !errors.As(err, &e) || e.Code != NotFound {
		t.Errorf("error: %v", err)
	}
}

// A peer that sends nonsense loses its connection, and nothing else happens.
func TestServerWithNonsense(t *testing.T) {
	path, _ := serve(t)
	for _, data := range [][]byte{
		bytes.Repeat([]byte{0xff}, 100),
		{0, 0, 0, 3, 0, 0, 0, 1, kindRequest, 0, 0xff, 0xff, 0xff},
	} {
		conn, err := Dial(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(make([]byte, 1000)); n == 0 && errors.Is(err, context.DeadlineExceeded) {
			t.Error("no answer and no end")
		}
		conn.Close()
	}
}

// scarce is a listener of a process that has no descriptors left, for a while.
type scarce struct {
	net.Listener
	refusals int
}

func (l *scarce) Accept() (net.Conn, error) {
	if l.refusals > 0 {
		l.refusals--
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", []error{syscall.EMFILE, syscall.ENFILE}[l.refusals%2])}
	}
	return l.Listener.Accept()
}

// A server without descriptors serves those that it has, and others when there are some.
func TestServeWithoutDescriptors(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer()
	s.Handle("s", "M", Method(func(context.Context, *Empty) (*Empty, error) { return &Empty{}, nil }))
	served := make(chan error, 1)
	go func() { served <- s.Serve(&scarce{l, 3}) }()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := NewClient(conn)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := errors.Join(c.Call(ctx, "s", "M", &Empty{}, &Empty{}), c.Close(), s.Shutdown(ctx), <-served); err != nil {
		t.Error(err)
	}
}
