package cli

import (
	"context"
	"net"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// leaving is a straked that goes away in the middle of calls.
type leaving struct {
	cri.UnimplementedRuntimeServiceServer
	calls  []string
	starts []error // what each start comes to
	state  cri.ContainerState
	gone   error
}

func (l *leaving) StartContainer(context.Context, *cri.StartContainerRequest) (*cri.StartContainerResponse, error) {
	l.calls = append(l.calls, "start")
	err := l.starts[0]
	l.starts = l.starts[1:]
	return &cri.StartContainerResponse{}, err
}

func (l *leaving) ContainerStatus(context.Context, *cri.ContainerStatusRequest) (*cri.ContainerStatusResponse, error) {
	l.calls = append(l.calls, "status")
	return &cri.ContainerStatusResponse{Status: &cri.ContainerStatus{State: l.state}}, l.gone
}

// A start that straked did not live to answer has happened, or is made by the next one.
func TestStartOverRestart(t *testing.T) {
	away := status.Error(codes.Unavailable, "error reading from server: EOF")
	refused := status.Error(codes.Unknown, "no such program")
	for name, c := range map[string]struct {
		starts []error
		state  cri.ContainerState
		gone   error
		calls  []string
		want   codes.Code
	}{
		"nobody goes":      {[]error{nil}, 0, nil, []string{"start"}, codes.OK},
		"refused":          {[]error{refused}, 0, nil, []string{"start"}, codes.Unknown},
		"it was started":   {[]error{away}, cri.ContainerState_CONTAINER_RUNNING, nil, []string{"start", "status"}, codes.OK},
		"it has ended":     {[]error{away}, cri.ContainerState_CONTAINER_EXITED, nil, []string{"start", "status"}, codes.OK},
		"it still waits":   {[]error{away, nil}, cri.ContainerState_CONTAINER_CREATED, nil, []string{"start", "status", "start"}, codes.OK},
		"goes again":       {[]error{away, away, nil}, cri.ContainerState_CONTAINER_CREATED, nil, []string{"start", "status", "start", "status", "start"}, codes.OK},
		"it was removed":   {[]error{away}, 0, status.Error(codes.NotFound, "no such container"), []string{"start", "status"}, codes.NotFound},
		"refused the next": {[]error{away, refused}, cri.ContainerState_CONTAINER_CREATED, nil, []string{"start", "status", "start"}, codes.Unknown},
	} {
		t.Run(name, func(t *testing.T) {
			server := &leaving{starts: c.starts, state: c.state, gone: c.gone}
			conn := serveRuntime(t, server)
			err := (&client{pods: cri.NewRuntimeServiceClient(conn)}).start(t.Context(), "id")
			if status.Code(err) != c.want || !slices.Equal(server.calls, c.calls) {
				t.Errorf("%v after %v, want %v after %v", err, server.calls, c.want, c.calls)
			}
		})
	}
	t.Run("whoever has no patience", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		server := &leaving{starts: []error{away}}
		if err := (&client{pods: cri.NewRuntimeServiceClient(serveRuntime(t, server))}).start(ctx, "id"); status.Code(err) != codes.Unavailable {
			t.Errorf("error %v", err)
		}
	})
}

func serveRuntime(t *testing.T, s cri.RuntimeServiceServer) *grpc.ClientConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	cri.RegisterRuntimeServiceServer(server, s)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}
