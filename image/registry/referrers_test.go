package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strake-containers/strake/internal/testutil"
	fake "github.com/strake-containers/strake/test/registry"
)

// artifact is a manifest about another.
func artifact(t *testing.T, artifactType string, number int, subject v1.Descriptor) []byte {
	t.Helper()
	body, err := json.Marshal(v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, ArtifactType: artifactType,
		Config: v1.DescriptorEmptyJSON, Layers: []v1.Descriptor{v1.DescriptorEmptyJSON},
		Subject: &subject, Annotations: map[string]string{"number": fmt.Sprint(number)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// TestReferrers puts manifests with a subject, and lists them: with a registry of today,
// in pages, and with one of before, by a tag that we keep.
func TestReferrers(t *testing.T) {
	testutil.CheckLeaks(t)
	for _, old := range []bool{false, true} {
		s := start(t, fake.New())
		if old {
			s.WithoutReferrers()
		}
		subject, err := s.Add("a", "1", fake.Image{})
		if err != nil {
			t.Fatal(err)
		}
		subject.Platform = nil
		var want []digest.Digest
		for i, artifactType := range []string{"application/vnd.example.sbom", "application/vnd.example.sbom", "application/vnd.example.sbom", "", "application/vnd.example.sbom"} {
			body := artifact(t, artifactType, i, subject)
			for range 2 { // the second changes nothing
				r := open(t, Config{}, s.Addr+"/a@"+digest.FromBytes(body).String(), nil)
				if _, err := r.PutManifest(t.Context(), v1.MediaTypeImageManifest, body); err != nil {
					t.Fatal(err)
				}
			}
			want = append(want, digest.FromBytes(body))
		}
		r := open(t, Config{}, s.Addr+"/a:1", nil)
		list := func(artifactType string) (found []digest.Digest) {
			all, err := r.Referrers(t.Context(), subject.Digest, artifactType)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range all {
				found = append(found, m.Digest)
				if m.MediaType != v1.MediaTypeImageManifest || m.Annotations["number"] == "" || artifactType != "" && m.ArtifactType != artifactType {
					t.Errorf("old %v: %+v", old, m)
				}
			}
			slices.Sort(found)
			return found
		}
		byType := map[string][]digest.Digest{
			"": want, "application/vnd.example.sbom": {want[0], want[1], want[2], want[4]},
			v1.DescriptorEmptyJSON.MediaType: {want[3]}, "application/x": nil,
		}
		for artifactType, want := range byType {
			want = slices.Sorted(slices.Values(want))
			if found := list(artifactType); !slices.Equal(found, want) {
				t.Errorf("old %v: of type %q: %v, want %v", old, artifactType, found, want)
			}
		}
		if all, err := r.Referrers(t.Context(), want[0], ""); err != nil || len(all) > 0 {
			t.Errorf("old %v: of what nothing refers to: %v %v", old, all, err)
		}
		_, tagged := s.Manifest("a", referrersTagOf(subject.Digest))
		if tagged != old {
			t.Errorf("old %v: the tag is there: %v", old, tagged)
		}
	}
}

// TestReferrersHostile: answers that are none.
func TestReferrersHostile(t *testing.T) {
	testutil.CheckLeaks(t)
	s := start(t, fake.New())
	subject, err := s.Add("a", "1", fake.Image{})
	if err != nil {
		t.Fatal(err)
	}
	r := open(t, Config{}, s.Addr+"/a:1", nil)
	for what, c := range map[string]struct {
		fault fake.Fault
		class error
	}{
		"an error":  {fake.Fault{Status: http.StatusInternalServerError}, ErrUnavailable},
		"forbidden": {fake.Fault{Status: http.StatusForbidden}, ErrUnauthorized},
		"endless":   {fake.Fault{Endless: true}, ErrTooLarge},
	} {
		c.fault.Suffix = "/referrers/" + subject.Digest.String()
		s.Misbehave(c.fault)
		if _, err := r.Referrers(t.Context(), subject.Digest, ""); !errors.Is(err, c.class) {
			t.Errorf("%s: %v", what, err)
		}
		s.Behave()
	}
	// In the place of the list of a registry of before.
	s.WithoutReferrers()
	for _, body := range []string{"<html>", `{"manifests":[{"digest":"x"}]}`, `{"manifests":[{"digest":"` + subject.Digest.String() + `","size":-1}]}`} {
		s.AddManifest("a", referrersTagOf(subject.Digest), v1.MediaTypeImageIndex, []byte(body))
		if _, err := r.Referrers(t.Context(), subject.Digest, ""); !errors.Is(err, ErrInvalidManifest) {
			t.Errorf("%s: %v", body, err)
		}
		about := artifact(t, "application/x", 1, subject)
		if _, err := open(t, Config{}, s.Addr+"/a:2", nil).PutManifest(t.Context(), v1.MediaTypeImageManifest, about); !errors.Is(err, ErrInvalidManifest) {
			t.Errorf("%s: put: %v", body, err)
		}
	}
	for link, want := range map[string]string{
		`</v2/a?x=1>; rel="next"`:         "http://h/v2/a?x=1",
		`<b>; rel=next`:                   "http://h/v2/b",
		`</v2/a>; rel="prev"`:             "",
		`rubbish`:                         "",
		`<http://other/v2/a>; rel="next"`: "error",
		`<https://h/v2/a>; rel="next"`:    "error",
		`<http://h/%zz>; rel="next"`:      "error",
		`<http://h/v2/a?y=2>; rel="next"`: "http://h/v2/a?y=2",
	} {
		req, err := http.NewRequest(http.MethodGet, "http://h/v2/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		u, err := nextPage(&http.Response{Request: req, Header: http.Header{"Link": {link}}})
		got := ""
		if u != nil {
			got = u.String()
		}
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%s: %s, want %s (%v)", link, got, want, err)
		}
	}
}

// TestSignatureExtension reads and writes where OpenShift's registry has signatures.
func TestSignatureExtension(t *testing.T) {
	testutil.CheckLeaks(t)
	s := start(t, fake.New())
	subject, err := s.Add("a/b", "1", fake.Image{})
	if err != nil {
		t.Fatal(err)
	}
	r := open(t, Config{}, s.Addr+"/a/b:1", &Auth{Username: "me", Password: "secret"})
	if found, err := r.Signatures(t.Context(), subject.Digest); err != nil || len(found) > 0 {
		t.Errorf("without: %q %v", found, err)
	}
	if err := r.PutSignature(t.Context(), subject.Digest, []byte("one")); !errors.Is(err, ErrNotFound) {
		t.Errorf("without: %v", err)
	}
	s.WithSignatures()
	if found, err := r.Signatures(t.Context(), subject.Digest); err != nil || len(found) > 0 {
		t.Errorf("none yet: %q %v", found, err)
	}
	for _, text := range []string{"one", "two"} {
		if err := r.PutSignature(t.Context(), subject.Digest, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	found, err := r.Signatures(t.Context(), subject.Digest)
	if err != nil || len(found) != 2 || string(found[0]) != "one" || string(found[1]) != "two" {
		t.Errorf("%q %v", found, err)
	}
	if asked := s.Requests(); !slices.ContainsFunc(asked, func(q string) bool {
		return strings.HasSuffix(q, "GET /extensions/v2/a/b/signatures/"+subject.Digest.String())
	}) {
		t.Errorf("asked %v", asked)
	}
}
