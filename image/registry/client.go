// Package registry is a client for the OCI distribution protocol: it resolves a
// name to a manifest and streams blobs, through mirrors, with authentication and
// resumption. It never writes a file and never trusts a byte: manifests are
// verified against their digest here, blobs by whoever consumes the stream.
//
// Sources: OCI distribution-spec 1.1, Docker's registry token specification, and
// for the configuration containerd's hosts.toml and Docker's certs.d.
package registry

import (
	"errors"
)

// Error classes. The error itself names the host, the path and the cause.
var (
	ErrNotFound        = errors.New("not found")
	ErrUnauthorized    = errors.New("unauthorized")
	ErrDigestMismatch  = errors.New("digest mismatch")
	ErrUnsupported     = errors.New("unsupported")
	ErrTooLarge        = errors.New("too large")
	ErrUnavailable     = errors.New("registry unavailable")
	ErrInvalidManifest = errors.New("invalid manifest")
)

// Config says how registries are reached. Its zero value needs no file.
type Config struct {
	// ConfigPath is a certs.d tree: <host>/hosts.toml, or Docker's *.crt,
	// *.cert and *.key. "" reads none. Several are separated by colons.
	ConfigPath string
	// UserAgent is sent with each request; "" is "strake".
	UserAgent string
}

// Auth is what a caller of CRI or a login gives. One of the forms is set.
type Auth struct {
	Username, Password string
	// Auth is base64 of "username:password".
	Auth string
	// IdentityToken is an OAuth2 refresh token for the token service.
	IdentityToken string
	// RegistryToken is a bearer token, sent as it is.
	RegistryToken string
	// ServerAddress, if set, is the only host that may get these.
	ServerAddress string
}
