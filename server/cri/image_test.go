package cri

import (
	"context"
	"encoding/base64"
	"fmt"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/image"
)

// fakeImages has one image; what else it is asked is written down.
type fakeImages struct {
	Images
	image   image.Image
	removed []string
	auth    *image.Auth
}

func (f *fakeImages) Get(ref string) (image.Image, error) {
	if ref == f.image.ID || ref == f.image.RepoTags[0] {
		return f.image, nil
	}
	return image.Image{}, fmt.Errorf("image %s: %w", ref, image.ErrNotFound)
}

func (f *fakeImages) List() []image.Image { return []image.Image{f.image} }

func (f *fakeImages) Remove(_ context.Context, ref string) error {
	f.removed = append(f.removed, ref)
	return nil
}

func (f *fakeImages) Pull(_ context.Context, _ string, o image.PullOptions) (image.Image, error) {
	f.auth = o.Auth
	return f.image, nil
}

func TestImages(t *testing.T) {
	f := &fakeImages{image: image.Image{ID: "sha256:1", RepoTags: []string{"a:1", "b:2"}, RepoDigests: []string{"a@sha256:2"}, Size: 10, Pinned: true}}
	f.image.Config.User = "1000:50"
	s := &imageService{Images: f, handlers: func() ([]Handler, string) { return []Handler{{Name: "strake"}}, "strake" }}
	want := &runtimeapi.Image{Id: "sha256:1", RepoTags: []string{"a:1", "b:2"}, RepoDigests: []string{"a@sha256:2"}, Size: 10, Pinned: true,
		Uid: &runtimeapi.Int64Value{Value: 1000}, Spec: &runtimeapi.ImageSpec{Image: "sha256:1"}}
	spec := func(name string) *runtimeapi.ImageSpec { return &runtimeapi.ImageSpec{Image: name} }

	there, err := s.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: spec("a:1")})
	if err != nil {
		t.Fatal(err)
	}
	check(t, there.Image, want)
	gone, err := s.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: spec("c")})
	if err != nil || gone.Image != nil {
		t.Errorf("unknown image: %v, %v", gone, err)
	}
	if _, err := s.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{}); err == nil {
		t.Error("no image named, no error")
	}
	for handler, ok := range map[string]bool{"": true, "strake": true, "kata": false} {
		r, err := s.PullImage(t.Context(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: "a:1", RuntimeHandler: handler}})
		if (err == nil) != ok || ok && r.ImageRef != "sha256:1" {
			t.Errorf("pull for handler %q: %v, %v", handler, r, err)
		}
	}
	for filter, n := range map[string]int{"": 1, "a:1": 1, "c": 0} {
		list, err := s.ListImages(t.Context(), &runtimeapi.ListImagesRequest{Filter: &runtimeapi.ImageFilter{Image: spec(filter)}})
		if err != nil || len(list.Images) != n {
			t.Errorf("filter %q: %v, %v", filter, list, err)
		}
	}
	for _, name := range []string{"a:1", "c"} {
		if _, err := s.RemoveImage(t.Context(), &runtimeapi.RemoveImageRequest{Image: spec(name)}); err != nil {
			t.Error(err)
		}
	}
	if len(f.removed) != 1 || f.removed[0] != "sha256:1" {
		t.Errorf("removed %v", f.removed)
	}
}

func TestAuth(t *testing.T) {
	encode := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	for _, c := range []struct {
		in   *runtimeapi.AuthConfig
		want *image.Auth
		ok   bool
	}{
		{nil, nil, true},
		{&runtimeapi.AuthConfig{ServerAddress: "r"}, nil, true},
		{&runtimeapi.AuthConfig{Username: "u", Password: "p"}, &image.Auth{Username: "u", Password: "p"}, true},
		{&runtimeapi.AuthConfig{Auth: encode("u:p:q\x00")}, &image.Auth{Username: "u", Password: "p:q"}, true},
		{&runtimeapi.AuthConfig{RegistryToken: "t"}, &image.Auth{RegistryToken: "t"}, true},
		{&runtimeapi.AuthConfig{Auth: "%"}, nil, false},
		{&runtimeapi.AuthConfig{Auth: encode("nocolon")}, nil, false},
	} {
		got, err := authOf(c.in)
		if (err == nil) != c.ok || (got == nil) != (c.want == nil) || got != nil && *got != *c.want {
			t.Errorf("%v: %+v, %v", c.in, got, err)
		}
	}
}

func TestImageUser(t *testing.T) {
	for user, want := range map[string]struct {
		uid  int64
		name string
	}{"": {0, ""}, "1000": {1000, ""}, "1000:1000": {1000, ""}, "nobody": {-1, "nobody"}, "nobody:x": {-1, "nobody"}, ":7": {0, ""}} {
		uid, name := imageUser(user)
		if name != want.name || uid == nil && want.uid >= 0 || uid != nil && uid.Value != want.uid {
			t.Errorf("%q: %v, %q", user, uid, name)
		}
	}
}
