package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/strake-containers/strake/image"
	"github.com/strake-containers/strake/pod"
)

func TestErrors(t *testing.T) {
	for _, c := range []struct {
		err  error
		code codes.Code
	}{
		{pod.ErrNotFound, codes.NotFound},
		{pod.ErrInvalid, codes.InvalidArgument},
		{pod.ErrUnsupported, codes.Unimplemented},
		{pod.ErrState, codes.FailedPrecondition},
		{pod.ErrExists, codes.AlreadyExists},
		{pod.ErrTimeout, codes.DeadlineExceeded},
		{pod.ErrClosed, codes.Unavailable},
		{pod.ErrUnavailable, codes.Unavailable},
		{image.ErrNotFound, codes.NotFound},
		{image.ErrUnauthorized, codes.PermissionDenied},
		{image.ErrDigestMismatch, codes.DataLoss},
		{context.Canceled, codes.Canceled},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{&os.PathError{Op: "write", Path: "/x", Err: syscall.ENOSPC}, codes.ResourceExhausted},
		{errors.New("other"), codes.Unknown},
		{status.Error(codes.Aborted, "mine"), codes.Aborted},
		{errors.Join(fmt.Errorf("x: %w", pod.ErrTimeout), errors.New("undo: also")), codes.DeadlineExceeded},
	} {
		if got := status.Code(asStatus(fmt.Errorf("doing: %w", c.err))); got != c.code {
			t.Errorf("%v: %s, want %s", c.err, got, c.code)
		}
	}
	if asStatus(nil) != nil || unlessGone(fmt.Errorf("pod x: %w", pod.ErrNotFound)) != nil {
		t.Error("success became an error")
	}
}

// TestPullUnavailable is what the kubelet compares.
func TestPullUnavailable(t *testing.T) {
	err := asPullStatus(fmt.Errorf("pull x: %w", image.ErrUnavailable))
	if s := status.Convert(err); s.Code() != codes.Unknown || len(s.Message()) < 20 || s.Message()[:20] != "RegistryUnavailable:" {
		t.Errorf("got %v", err)
	}
	for _, convert := range []func(error) error{asPullStatus, asStatus} { // of a pull, and of a container
		err = convert(fmt.Errorf("x: %w", image.ErrSignature))
		if s := status.Convert(err); s.Code() != codes.Unknown || !strings.HasPrefix(s.Message(), "SignatureValidationFailed: ") {
			t.Errorf("got %v", err)
		}
	}
}
