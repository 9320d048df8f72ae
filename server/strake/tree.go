package strake

import (
	"context"

	"google.golang.org/grpc"

	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

// This file: the files of containers and images, as a person looks at them.

func (s *service) ExportContainer(r *strakev1.ExportContainerRequest, stream grpc.ServerStreamingServer[strakev1.ExportContainerResponse]) error {
	exporting, end := s.untilEnd(stream.Context())
	defer end()
	out := &chunkWriter{send: func(b []byte) error { return stream.Send(&strakev1.ExportContainerResponse{Data: b}) }}
	err := s.Pods.ExportContainer(exporting, r.ContainerId, out)
	if err == nil {
		err = out.flush()
	}
	if err != nil {
		return callError(exporting, err)
	}
	return nil
}

func (s *service) DiffContainer(ctx context.Context, r *strakev1.DiffContainerRequest) (*strakev1.DiffContainerResponse, error) {
	ctx, end := s.untilEnd(ctx)
	defer end()
	changes, err := s.Pods.DiffContainer(ctx, r.ContainerId)
	if err != nil {
		return nil, callError(ctx, err)
	}
	res := &strakev1.DiffContainerResponse{}
	for _, c := range changes {
		res.Changes = append(res.Changes, &strakev1.Change{Kind: string(c.Kind), Path: c.Path})
	}
	return res, nil
}

func (s *service) MountImage(_ context.Context, r *strakev1.MountImageRequest) (*strakev1.MountImageResponse, error) {
	dir, err := s.Images.Mount(r.Reference)
	if err != nil {
		return nil, asStatus(err)
	}
	return &strakev1.MountImageResponse{Path: dir}, nil
}

func (s *service) UnmountImage(_ context.Context, r *strakev1.UnmountImageRequest) (*strakev1.UnmountImageResponse, error) {
	if err := s.Images.Unmount(r.Reference); err != nil {
		return nil, asStatus(err)
	}
	return &strakev1.UnmountImageResponse{}, nil
}

func (s *service) ListImageMounts(context.Context, *strakev1.ListImageMountsRequest) (*strakev1.ListImageMountsResponse, error) {
	res := &strakev1.ListImageMountsResponse{}
	for _, m := range s.Images.Mounts() {
		mount := &strakev1.ImageMount{Id: m.ImageID, Path: m.Dir}
		if img, err := s.Images.Get(m.ImageID); err == nil { // else it was removed
			mount.Names = img.RepoTags
		}
		res.Mounts = append(res.Mounts, mount)
	}
	return res, nil
}
