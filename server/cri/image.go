package cri

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/image"
	"github.com/strake-containers/strake/pod/bundle"
)

// maxReference bounds an image's name; registries allow far less.
const maxReference = 4096

func checkImage(spec *runtimeapi.ImageSpec) error {
	switch name := spec.GetImage(); {
	case name == "":
		return invalid("image.image", "is empty")
	case len(name) > maxReference:
		return invalid("image.image", fmt.Sprintf("longer than %d bytes", maxReference))
	}
	return nil
}

// pullPatience is how long a pull goes on whose client has given up: a kubelet's timeout
// is shorter than some pulls, and it asks again.
const pullPatience = time.Minute

func (s *imageService) PullImage(ctx context.Context, r *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	if err := checkImage(r.GetImage()); err != nil {
		return nil, err
	}
	if h := r.Image.RuntimeHandler; h != "" {
		if all, _ := s.handlers(); !slices.ContainsFunc(all, func(k Handler) bool { return k.Name == h }) {
			return nil, invalid("image.runtime_handler", fmt.Sprintf("there is no runtime handler %q", h))
		}
	}
	credentials, err := authOf(r.Auth)
	if err != nil {
		return nil, err
	}
	i, err := s.Pull(ctx, r.Image.Image, image.PullOptions{
		Auth: credentials, Namespace: r.GetSandboxConfig().GetMetadata().GetNamespace(), Patience: pullPatience,
	})
	if err != nil {
		return nil, asPullStatus(err)
	}
	return &runtimeapi.PullImageResponse{ImageRef: i.ID}, nil
}

// authOf translates credentials. auth is base64 of "user:password", in which
// Docker's clients may leave trailing zeros.
func authOf(a *runtimeapi.AuthConfig) (*image.Auth, error) {
	if a == nil {
		return nil, nil
	}
	out := &image.Auth{
		Username:      a.Username,
		Password:      a.Password,
		IdentityToken: a.IdentityToken,
		RegistryToken: a.RegistryToken,
	}
	if a.Auth != "" && a.Username == "" && a.Password == "" {
		decoded, err := base64.StdEncoding.DecodeString(a.Auth)
		if err != nil {
			return nil, invalid("auth.auth", "is not base64")
		}
		user, password, ok := strings.Cut(string(decoded), ":")
		if !ok {
			return nil, invalid("auth.auth", "is not user:password")
		}
		out.Username, out.Password = user, strings.TrimRight(password, "\x00")
	}
	if *out == (image.Auth{}) {
		return nil, nil
	}
	return out, nil
}

// images lists what a filter selects: the one image, or all.
func (s *imageService) images(f *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	found := []image.Image{}
	if name := f.GetImage().GetImage(); name == "" {
		found = s.List()
	} else if i, err := s.Get(name); err == nil {
		found = append(found, i)
	} else if !errors.Is(err, image.ErrNotFound) {
		return nil, asStatus(err)
	}
	items := make([]*runtimeapi.Image, 0, len(found))
	for _, i := range found {
		items = append(items, imageItem(i))
	}
	return items, nil
}

func (s *imageService) ListImages(_ context.Context, r *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	items, err := s.images(r.GetFilter())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListImagesResponse{Images: items}, nil
}

func (s *imageService) StreamImages(r *runtimeapi.StreamImagesRequest, to grpc.ServerStreamingServer[runtimeapi.StreamImagesResponse]) error {
	items, err := s.images(r.GetFilter())
	if err != nil {
		return err
	}
	return inChunks(items, func(items []*runtimeapi.Image) error {
		return to.Send(&runtimeapi.StreamImagesResponse{Images: items})
	})
}

// ImageStatus of an image that is not there is an empty answer, not an error.
func (s *imageService) ImageStatus(_ context.Context, r *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	if err := checkImage(r.GetImage()); err != nil {
		return nil, err
	}
	i, err := s.Get(r.Image.Image)
	if errors.Is(err, image.ErrNotFound) {
		return &runtimeapi.ImageStatusResponse{}, nil
	} else if err != nil {
		return nil, asStatus(err)
	}
	resp := &runtimeapi.ImageStatusResponse{Image: imageItem(i)}
	if r.Verbose {
		if resp.Info, err = imageInfo(i); err != nil {
			return nil, asStatus(err)
		}
	}
	return resp, nil
}

// RemoveImage removes an image with all its names, also when it was asked for by
// one of them: the kubelet collects images by id, and CRI says "the image".
func (s *imageService) RemoveImage(ctx context.Context, r *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	if err := checkImage(r.GetImage()); err != nil {
		return nil, err
	}
	i, err := s.Get(r.Image.Image)
	if err == nil {
		err = s.Remove(ctx, i.ID)
	}
	if err != nil && !errors.Is(err, image.ErrNotFound) {
		return nil, asStatus(err)
	}
	return &runtimeapi.RemoveImageResponse{}, nil
}

// ImageFsInfo reports one file system for images and for containers' writable
// layers, as both lie below ROOT: two mount points would make the kubelet manage
// two disks.
func (s *imageService) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	bytes, inodes, err := s.Usage()
	if err != nil {
		return nil, asStatus(err)
	}
	usage := []*runtimeapi.FilesystemUsage{{
		Timestamp:  time.Now().UnixNano(),
		FsId:       &runtimeapi.FilesystemIdentifier{Mountpoint: s.Root()},
		UsedBytes:  number(bytes),
		InodesUsed: number(inodes),
	}}
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: usage, ContainerFilesystems: usage}, nil
}

func imageItem(i image.Image) *runtimeapi.Image {
	out := &runtimeapi.Image{
		Id:          i.ID,
		RepoTags:    i.RepoTags,
		RepoDigests: i.RepoDigests,
		Size:        uint64(max(i.Size, 0)),
		Pinned:      i.Pinned,
		Spec:        &runtimeapi.ImageSpec{Image: i.ID},
	}
	out.Uid, out.Username = imageUser(i.Config.User)
	return out
}

// imageUser splits an image's USER: the kubelet checks runAsNonRoot against the
// number, or refuses a name. No user is root.
func imageUser(user string) (*runtimeapi.Int64Value, string) {
	name, _, _ := strings.Cut(user, ":")
	if name == "" {
		return &runtimeapi.Int64Value{Value: 0}, ""
	}
	if u, _, err := bundle.ResolveUser("the image's user", name, bundle.GroupsMerge, bundle.Accounts{}); err == nil {
		return &runtimeapi.Int64Value{Value: int64(u.UID)}, ""
	}
	return nil, name
}
