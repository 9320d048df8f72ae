package server

import (
	"context"
	"log/slog"
	"path"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/strake-containers/strake/internal/span"
)

// maxMessage is what a client may send: the kubelet's own limit.
const maxMessage = 16 << 20

// Observer hears of every call when it has ended.
type Observer func(method string, code codes.Code, took time.Duration)

// NewGRPC returns a gRPC server without services. Failed calls are logged at
// warning, except those that only ask for what is not there; all at debug, with the
// trace that they are recorded in. What a call is about is noted in its span, if traces
// (server/tracing), which may be nil, makes one.
func NewGRPC(log *slog.Logger, observe Observer, traces stats.Handler) *grpc.Server {
	done := func(ctx context.Context, method string, start time.Time, err error) {
		took := time.Since(start)
		code := status.Code(err)
		observe(method, code, took)
		log.LogAttrs(ctx, level(code), "call", slog.String("method", path.Base(method)),
			slog.Duration("took", took), slog.String("code", code.String()), traceAttr(ctx), errorAttr(err))
	}
	options := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage),
		// A message is a few hundred bytes; 32 KiB twice per connection is memory for nothing.
		grpc.ReadBufferSize(4 << 10),
		grpc.WriteBufferSize(4 << 10),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			start := time.Now()
			span.Describe(ctx, subject(req)...)
			ctx, cancel := inTime(ctx)
			defer cancel()
			resp, err := handler(ctx, req)
			done(ctx, info.FullMethod, start, err)
			return resp, err
		}),
		grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			start := time.Now()
			err := handler(srv, ss)
			done(ss.Context(), info.FullMethod, start, err)
			return err
		}),
	}
	if traces != nil {
		options = append(options, grpc.StatsHandler(traces))
	}
	return grpc.NewServer(options...)
}

// subject is what a request names that it is about, of whichever service it is.
func subject(request any) (attributes []attribute.KeyValue) {
	if r, ok := request.(interface{ GetPodSandboxId() string }); ok {
		attributes = append(attributes, span.PodID.String(r.GetPodSandboxId()))
	}
	if r, ok := request.(interface{ GetContainerId() string }); ok {
		attributes = append(attributes, span.ContainerID.String(r.GetContainerId()))
	}
	return attributes
}

// maxAnswer is how long the way of an answer to its client may take, at most.
const maxAnswer = time.Second

// inTime ends ctx a little before the client's patience: an error that says where a
// verb hangs must reach the client before it gives up, which tells nothing.
func inTime(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, deadline.Add(-min(time.Until(deadline)/10, maxAnswer)))
}

func level(code codes.Code) slog.Level {
	switch code {
	case codes.OK, codes.NotFound, codes.Canceled, codes.Unimplemented:
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

func traceAttr(ctx context.Context) slog.Attr {
	id := span.TraceID(ctx)
	if id == "" {
		return slog.Attr{}
	}
	return slog.String("trace", id)
}

func errorAttr(err error) slog.Attr {
	if err == nil {
		return slog.Attr{} // the handler leaves it out
	}
	return slog.String("error", status.Convert(err).Message())
}

// Stop lets calls under way end, until ctx does, and then ends them.
func Stop(ctx context.Context, s *grpc.Server) {
	graceful := make(chan struct{})
	go func() {
		s.GracefulStop()
		close(graceful)
	}()
	select {
	case <-graceful:
	case <-ctx.Done():
		s.Stop()
		<-graceful
	}
}
