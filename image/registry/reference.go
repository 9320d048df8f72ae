package registry

import (
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

// ErrInvalidReference is the class of names that cannot be an image reference.
var ErrInvalidReference = errors.New("invalid image reference")

const (
	defaultDomain    = "docker.io"
	officialPrefix   = "library/"
	defaultTag       = "latest"
	maxRepositoryLen = 255
	maxTagLen        = 128
)

// Reference is a normalised image name: the host and repository path are always
// there, and exactly one of Tag and Digest.
type Reference struct {
	Domain string        // "docker.io", "127.0.0.1:5000"
	Path   string        // "library/busybox"
	Tag    string        // "latest", or "" with a digest
	Digest digest.Digest // "" with a tag
}

// ParseReference normalises a name as docker does: no host means docker.io, one
// path component there means library/, neither tag nor digest means latest. A
// name with both is its digest: the tag says nothing more and is dropped, as
// CRI runtimes do.
func ParseReference(s string) (Reference, error) {
	bad := func(why string) (Reference, error) {
		return Reference{}, fmt.Errorf("%w %q: %s", ErrInvalidReference, s, why)
	}
	if len(s) > maxRepositoryLen+maxTagLen+80 {
		return Reference{}, fmt.Errorf("%w: %d characters are too many", ErrInvalidReference, len(s))
	}
	var r Reference
	name, dig, hasDigest := strings.Cut(s, "@")
	if hasDigest {
		d, err := digest.Parse(dig)
		if err != nil {
			return bad("the digest: " + err.Error())
		}
		r.Digest = d
	}
	// A colon after the last slash starts the tag; one before it is a port.
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		tag := name[i+1:]
		if !validTag(tag) {
			return bad("a tag is a letter, digit or underscore, then up to 127 of letters, digits, . _ -")
		}
		name = name[:i]
		if !hasDigest {
			r.Tag = tag
		}
	}
	first, rest, hasSlash := strings.Cut(name, "/")
	isHost := hasSlash && (strings.ContainsAny(first, ".:") || first == "localhost" || strings.ToLower(first) != first)
	if isHost {
		r.Domain, r.Path = first, rest
	} else {
		r.Domain, r.Path = defaultDomain, name
	}
	if r.Domain == "index.docker.io" {
		r.Domain = defaultDomain
	}
	if r.Domain == defaultDomain && !strings.Contains(r.Path, "/") && r.Path != "" {
		r.Path = officialPrefix + r.Path
	}
	if isHexID(name) && !hasSlash {
		return bad("64 hexadecimal digits are an image id, not a name")
	}
	if !validDomain(r.Domain) {
		return bad("the registry host is not a host name")
	}
	if !validPath(r.Path) {
		return bad("a repository is lower-case letters and digits, with single separators . _ - between, and slashes")
	}
	if len(r.Domain)+1+len(r.Path) > maxRepositoryLen {
		return bad("more than 255 characters")
	}
	if r.Tag == "" && r.Digest == "" {
		r.Tag = defaultTag
	}
	return r, nil
}

// Repository is the name without tag and digest: "docker.io/library/busybox".
func (r Reference) Repository() string { return r.Domain + "/" + r.Path }

// String is the canonical form, which parses to the same Reference.
func (r Reference) String() string {
	if r.Digest != "" {
		return r.Repository() + "@" + r.Digest.String()
	}
	return r.Repository() + ":" + r.Tag
}

// WithDigest is the same repository at a digest.
func (r Reference) WithDigest(d digest.Digest) Reference {
	return Reference{Domain: r.Domain, Path: r.Path, Digest: d}
}

// identifier is what follows /manifests/ in a registry's URL.
func (r Reference) identifier() string {
	if r.Digest != "" {
		return r.Digest.String()
	}
	return r.Tag
}

func isHexID(s string) bool {
	if len(s) != 64 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func validTag(s string) bool {
	if s == "" || len(s) > maxTagLen || s[0] == '.' || s[0] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if !isAlnum(c) && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// validDomain accepts host names, IPv4 and bracketed IPv6, each with a port.
func validDomain(s string) bool {
	host := s
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		port := s[i+1:]
		if port == "" || len(port) > 5 || strings.Trim(port, "0123456789") != "" {
			return false
		}
		host = s[:i]
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		return ok && inner != "" && strings.Trim(inner, "0123456789abcdefABCDEF:.") == ""
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if !isAlnum(c) && c != '-' {
				return false
			}
		}
	}
	return true
}

// validPath accepts components of [a-z0-9]+ joined by one of . _ __ or dashes.
func validPath(s string) bool {
	for component := range strings.SplitSeq(s, "/") {
		if !validComponent(component) {
			return false
		}
	}
	return true
}

func validComponent(s string) bool {
	separators := 0
	for i, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9':
			separators = 0
			continue
		case c == '-' && (separators == 0 || s[i-1] == '-'):
		case c == '_' && (separators == 0 || separators == 1 && s[i-1] == '_'):
		case c == '.' && separators == 0:
		default:
			return false
		}
		if i == 0 {
			return false
		}
		separators++
	}
	return s != "" && separators == 0
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
