package strake

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/strake-containers/strake/image"
	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

func (s *service) SignImage(stream grpc.BidiStreamingServer[strakev1.SignImageRequest, strakev1.SignImageResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start == nil {
		return status.Error(codes.InvalidArgument, "sign: the first message does not say what to sign")
	}
	signing, end := s.untilEnd(stream.Context())
	defer end()
	o := image.SignOptions{Kind: image.SignatureKind(start.Kind), In: start.In, Identity: start.Identity, Auth: authOf(start.Auth)}
	signed, err := s.Images.Sign(signing, start.Reference, o, func(payload []byte) ([]byte, error) {
		if err := stream.Send(&strakev1.SignImageResponse{Event: &strakev1.SignImageResponse_Payload{Payload: payload}}); err != nil {
			return nil, err
		}
		answer, err := stream.Recv()
		return answer.GetSignature(), err
	})
	if err != nil {
		return callError(signing, err)
	}
	for _, one := range signed {
		m := &strakev1.Signed{Digest: one.Digest.String(), Where: one.Where}
		if err := stream.Send(&strakev1.SignImageResponse{Event: &strakev1.SignImageResponse_Signed{Signed: m}}); err != nil {
			return err
		}
	}
	return nil
}

func (s *service) ListReferrers(ctx context.Context, r *strakev1.ListReferrersRequest) (*strakev1.ListReferrersResponse, error) {
	asking, end := s.untilEnd(ctx)
	defer end()
	d, found, err := s.Images.Referrers(asking, r.Reference, r.ArtifactType, authOf(r.Auth))
	if err != nil {
		return nil, callError(asking, err)
	}
	out := &strakev1.ListReferrersResponse{Digest: d.String()}
	for _, m := range found {
		out.Referrers = append(out.Referrers, &strakev1.Referrer{
			MediaType: m.MediaType, Digest: m.Digest.String(), Size: m.Size, ArtifactType: m.ArtifactType, Annotations: m.Annotations,
		})
	}
	return out, nil
}
