package strake

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/strake-containers/strake/image"
	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

// maxData is what one message of an archive carries: below gRPC's 4 MiB.
const maxData = 1 << 20

func authOf(a *strakev1.Auth) *image.Auth {
	if a == nil {
		return nil
	}
	return &image.Auth{Username: a.Username, Password: a.Password, RegistryToken: a.RegistryToken, IdentityToken: a.IdentityToken}
}

func (s *service) Push(r *strakev1.PushRequest, stream grpc.ServerStreamingServer[strakev1.PushResponse]) error {
	o := image.PushOptions{To: r.To, Auth: authOf(r.Auth), Repack: r.Repack}
	news := newProgress()
	o.Progress = news.put
	pushing, end := s.untilEnd(stream.Context())
	defer end()
	done := news.sendWith(stream.Context(), func(l *strakev1.LayerProgress) error {
		return stream.Send(&strakev1.PushResponse{Event: &strakev1.PushResponse_Progress{Progress: l}})
	})
	d, err := s.Images.Push(pushing, r.Reference, o)
	if sendErr := done(); sendErr != nil {
		return sendErr // the client has gone
	}
	if err != nil {
		return callError(pushing, err)
	}
	return stream.Send(&strakev1.PushResponse{Event: &strakev1.PushResponse_Digest{Digest: d.String()}})
}

func (s *service) TagImage(_ context.Context, r *strakev1.TagImageRequest) (*strakev1.TagImageResponse, error) {
	if err := s.Images.Tag(r.Reference, r.To); err != nil {
		return nil, asStatus(err)
	}
	return &strakev1.TagImageResponse{}, nil
}

func (s *service) UntagImage(_ context.Context, r *strakev1.UntagImageRequest) (*strakev1.UntagImageResponse, error) {
	if err := s.Images.Untag(r.Names...); err != nil {
		return nil, asStatus(err)
	}
	return &strakev1.UntagImageResponse{}, nil
}

func (s *service) RemoveImage(ctx context.Context, r *strakev1.RemoveImageRequest) (*strakev1.RemoveImageResponse, error) {
	if err := s.Images.Remove(ctx, r.Reference); err != nil {
		return nil, asStatus(err)
	}
	return &strakev1.RemoveImageResponse{}, nil
}

func (s *service) PruneImages(_ context.Context, r *strakev1.PruneImagesRequest) (*strakev1.PruneImagesResponse, error) {
	removed, freed, err := s.Images.Prune(image.PruneOptions{All: r.All, PulledBefore: timeOf(r.PulledBefore), UsedBefore: timeOf(r.UsedBefore)})
	if err != nil {
		return nil, asStatus(err)
	}
	return &strakev1.PruneImagesResponse{Removed: imageMessages(removed), Freed: freed}, nil
}

// timeOf is a time in Unix nanoseconds; 0 is none.
func timeOf(nanos int64) time.Time {
	if nanos == 0 {
		return time.Time{}
	}
	return time.Unix(0, nanos)
}

func imageMessages(images []image.Image) []*strakev1.Image {
	var out []*strakev1.Image
	for _, img := range images {
		out = append(out, imageMessage(img))
	}
	return out
}

func (s *service) SaveImages(r *strakev1.SaveImagesRequest, stream grpc.ServerStreamingServer[strakev1.SaveImagesResponse]) error {
	if len(r.References) == 0 {
		return status.Error(codes.InvalidArgument, "references: names no image")
	}
	saving, end := s.untilEnd(stream.Context())
	defer end()
	out := &chunkWriter{send: func(b []byte) error { return stream.Send(&strakev1.SaveImagesResponse{Data: b}) }}
	err := s.Images.Save(saving, out, image.Format(r.Format), r.References...)
	if err == nil {
		err = out.flush()
	}
	if err != nil {
		return callError(saving, err)
	}
	return nil
}

// chunkWriter collects small writes to messages of maxData.
type chunkWriter struct {
	send func([]byte) error
	buf  bytes.Buffer
}

func (w *chunkWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		part := p[:min(len(p), maxData-w.buf.Len())]
		w.buf.Write(part)
		p = p[len(part):]
		if w.buf.Len() == maxData {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (w *chunkWriter) flush() error {
	if w.buf.Len() == 0 {
		return nil
	}
	err := w.send(w.buf.Bytes())
	w.buf.Reset()
	return err
}

// chunkReader reads what a client streams.
type chunkReader struct {
	receive func() ([]byte, error)
	rest    []byte
}

func (r *chunkReader) Read(b []byte) (int, error) {
	for len(r.rest) == 0 {
		var err error
		if r.rest, err = r.receive(); err != nil {
			return 0, err // io.EOF is the client's end
		}
	}
	n := copy(b, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (s *service) LoadImages(stream grpc.ClientStreamingServer[strakev1.LoadImagesRequest, strakev1.LoadImagesResponse]) error {
	loading, end := s.untilEnd(stream.Context())
	defer end()
	in := &chunkReader{receive: func() ([]byte, error) {
		r, err := stream.Recv()
		return r.GetData(), err
	}}
	images, err := s.Images.Load(loading, in, "")
	if err != nil {
		return callError(loading, err)
	}
	return stream.SendAndClose(&strakev1.LoadImagesResponse{Images: imageMessages(images)})
}

func (s *service) ImportImage(stream grpc.ClientStreamingServer[strakev1.ImportImageRequest, strakev1.ImportImageResponse]) error {
	importing, end := s.untilEnd(stream.Context())
	defer end()
	first, err := stream.Recv()
	if errors.Is(err, io.EOF) {
		return status.Error(codes.InvalidArgument, "name: is empty")
	}
	if err != nil {
		return err
	}
	var config v1.ImageConfig
	if len(first.Config) > 0 {
		dec := json.NewDecoder(bytes.NewReader(first.Config))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&config); err != nil {
			return status.Errorf(codes.InvalidArgument, "config: %v", err)
		}
	}
	in := &chunkReader{rest: first.Data, receive: func() ([]byte, error) {
		r, err := stream.Recv()
		return r.GetData(), err
	}}
	img, err := s.Images.Import(importing, in, first.Name, first.Comment, config)
	if err != nil {
		return callError(importing, err)
	}
	return stream.SendAndClose(&strakev1.ImportImageResponse{Image: imageMessage(img)})
}

func (s *service) VerifyImages(r *strakev1.VerifyImagesRequest, stream grpc.ServerStreamingServer[strakev1.VerifyImagesResponse]) error {
	verifying, end := s.untilEnd(stream.Context())
	defer end()
	var broken []image.Finding
	var sendErr error
	err := s.Images.Verify(verifying, r.Reference, func(f image.Finding) {
		m := &strakev1.VerifyImagesResponse{Image: imageMessage(f.Image), What: f.What, Unknown: f.Unknown}
		if f.Problem != nil {
			m.Problem = f.Problem.Error()
			broken = append(broken, f)
		}
		sendErr = errors.Join(sendErr, stream.Send(m))
	})
	if sendErr != nil {
		return sendErr // the client has gone
	}
	if err == nil && r.Repair {
		err = s.Images.Repair(verifying, broken, func(name string) *image.Auth {
			host, _, _ := strings.Cut(name, "/")
			return authOf(r.Auths[host])
		})
	} else if err == nil && len(broken) > 0 {
		err = status.Error(codes.DataLoss, fmt.Sprintf("%d broken", len(broken)))
	}
	if err != nil {
		return callError(verifying, err)
	}
	return nil
}

func (s *service) ShowTrust(_ context.Context, r *strakev1.ShowTrustRequest) (*strakev1.ShowTrustResponse, error) {
	file, scopes, decision, err := s.Images.ShowTrust(r.Reference, r.Namespace)
	if err != nil {
		return nil, asStatus(err)
	}
	out := &strakev1.ShowTrustResponse{File: file}
	for _, scope := range scopes {
		out.Scopes = append(out.Scopes, &strakev1.TrustScope{Transport: scope.Transport, Scope: scope.Scope, Requirements: scope.Requirements})
	}
	if d := decision; d != nil {
		out.Decision = &strakev1.TrustDecision{Image: d.Image, Origin: d.Origin, Scope: d.Scope, Requirements: d.Requirements}
		if d.Refused != nil {
			out.Decision.Reason = d.Refused.Error()
		}
	}
	return out, nil
}

func (s *service) DiskUsage(context.Context, *strakev1.DiskUsageRequest) (*strakev1.DiskUsageResponse, error) {
	size, inodes, err := s.Images.Usage()
	if err != nil {
		return nil, asStatus(err)
	}
	out := &strakev1.DiskUsageResponse{Bytes: size, Inodes: inodes}
	for _, u := range s.Images.DiskUsage() {
		m := &strakev1.ImageUsage{Image: imageMessage(u.Image), Shared: u.Shared, Unique: u.Unique, Holders: uint32(u.Holders)}
		if !u.LastUsed.IsZero() {
			m.LastUsed = u.LastUsed.UnixNano()
		}
		out.Images = append(out.Images, m)
	}
	return out, nil
}
