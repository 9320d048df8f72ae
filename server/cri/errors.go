package cri

import (
	"context"
	"errors"
	"syscall"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/strake-containers/strake/image"
	"github.com/strake-containers/strake/pod"
	"github.com/strake-containers/strake/pod/bundle"
)

// codeOf lists the classes of errors and their gRPC codes; the first that fits
// counts. What the kubelet does with a code is why it is there.
var codeOf = []struct {
	class error
	code  codes.Code
}{
	{pod.ErrTimeout, codes.DeadlineExceeded}, // a probe that timed out has failed, not broken
	{context.DeadlineExceeded, codes.DeadlineExceeded},
	{context.Canceled, codes.Canceled},
	{pod.ErrNotFound, codes.NotFound}, // the object is gone: no retry
	{pod.ErrInvalid, codes.InvalidArgument},
	{bundle.ErrInvalid, codes.InvalidArgument},
	{pod.ErrUnsupported, codes.Unimplemented},
	{bundle.ErrUnsupported, codes.Unimplemented},
	{pod.ErrState, codes.FailedPrecondition},
	{pod.ErrExists, codes.AlreadyExists},
	{pod.ErrClosed, codes.Unavailable},      // retried on the next connection
	{pod.ErrUnavailable, codes.Unavailable}, // a probe that was cut off has neither succeeded nor failed
	{image.ErrNotFound, codes.NotFound},
	{image.ErrInvalidReference, codes.InvalidArgument},
	{image.ErrAmbiguous, codes.InvalidArgument},
	{image.ErrUnauthorized, codes.PermissionDenied},
	{image.ErrDigestMismatch, codes.DataLoss},
	{image.ErrUnsupported, codes.Unimplemented},
	{syscall.ENOSPC, codes.ResourceExhausted},
	{syscall.EDQUOT, codes.ResourceExhausted},
}

// asStatus gives an error its gRPC code. Errors with a code already, as the
// streaming library's, keep theirs.
func asStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	if errors.Is(err, image.ErrSignature) { // of a pull, and of a container whose image the policy lets in no more
		return status.Error(codes.Unknown, crierrors.ErrSignatureValidationFailed.Error()+": "+err.Error())
	}
	for _, c := range codeOf {
		if errors.Is(err, c.class) {
			return status.Error(c.code, err.Error())
		}
	}
	return status.Error(codes.Unknown, err.Error())
}

// asPullStatus is asStatus for PullImage, where the kubelet tells a registry that
// is down from an image that is bad by how the message of an Unknown error begins.
func asPullStatus(err error) error {
	if errors.Is(err, image.ErrUnavailable) {
		return status.Error(codes.Unknown, crierrors.ErrRegistryUnavailable.Error()+": "+err.Error())
	}
	return asStatus(err)
}

// unlessGone is asStatus for the verbs that must succeed on what is not there.
func unlessGone(err error) error {
	if errors.Is(err, pod.ErrNotFound) {
		return nil
	}
	return asStatus(err)
}

// invalid refuses a request.
func invalid(field, text string) error {
	return status.Error(codes.InvalidArgument, field+": "+text)
}

// unsupported refuses a field by name.
func unsupported(field string) error {
	return status.Error(codes.Unimplemented, field+": not supported")
}
