package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

// maxMessage is the largest answer that is taken from the daemon: a list of
// some ten thousand containers.
const maxMessage = 64 << 20

// client is the daemon's two services, CRI and ours, over one socket.
type client struct {
	pods   cri.RuntimeServiceClient
	images cri.ImageServiceClient
	strake strakev1.StrakeClient
	conn   *grpc.ClientConn
}

// dial connects to straked. Its errors say what to do.
func dial(ctx context.Context, address string) (*client, error) {
	path := strings.TrimPrefix(address, "unix://")
	// The first connection is made here and not by gRPC, whose errors speak of
	// transports and balancers.
	var d net.Dialer
	first, err := d.DialContext(ctx, "unix", path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("straked is not running at %s: start it (straked --address %s), or name its socket with --address or $STRAKE_ADDRESS", path, path)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("straked's socket %s is for root: run strake as root", path)
	case err != nil:
		return nil, fmt.Errorf("straked at %s: %w", path, err)
	}
	var once sync.Once
	conn, err := grpc.NewClient("passthrough:///"+path,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		// Who waits for a daemon that is being restarted waits a second, not two
		// minutes. A daemon on a busy machine may still take its time to say hello:
		// without MinConnectTimeout that were the first delay, 50 ms.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, MaxDelay: time.Second},
			MinConnectTimeout: 20 * time.Second,
		}),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (c net.Conn, err error) {
			once.Do(func() { c, first = first, nil })
			if c != nil {
				return c, nil
			}
			return d.DialContext(ctx, "unix", path)
		}))
	if err != nil {
		return nil, errors.Join(err, first.Close())
	}
	return &client{
		pods:   cri.NewRuntimeServiceClient(conn),
		images: cri.NewImageServiceClient(conn),
		strake: strakev1.NewStrakeClient(conn),
		conn:   conn,
	}, nil
}

func (c *client) Close() error { return c.conn.Close() }

// message is an error as a person reads it: one line, without gRPC's prefix,
// with ids as ps shows them.
func message(err error) string {
	text := err.Error()
	// A status inside another error keeps what was said around it.
	var inner interface{ GRPCStatus() *status.Status }
	if errors.As(err, &inner) {
		s := inner.GRPCStatus()
		if wrapped, ok := inner.(error); ok {
			text = strings.Replace(text, wrapped.Error(), s.Message(), 1)
		}
		if s.Code() == codes.Unavailable && transport.MatchString(s.Message()) {
			text = "straked went away: see its log, start it again, and repeat the command"
		}
	}
	text = strings.ReplaceAll(strings.TrimSpace(text), "\n", "; ")
	text = longID.ReplaceAllStringFunc(text, func(id string) string {
		if strings.HasPrefix(id, "sha256:") {
			return id // a digest is to be compared
		}
		return id[:shortID]
	})
	// Each layer names what it works on, and several may work on the same.
	parts := strings.Split(text, ": ")
	return strings.Join(slices.Compact(parts), ": ")
}

var (
	// transport is how gRPC itself speaks of a connection that broke.
	transport = regexp.MustCompile(`connection error|error reading from server|transport is closing`)
	longID    = regexp.MustCompile(`(sha256:)?\b[0-9a-f]{64}\b`)
)
