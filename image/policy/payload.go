package policy

import (
	"encoding/json"
	"fmt"
	"time"
)

// Kind is a kind of signature.
type Kind string

// The kinds of signature: simple signing's is an OpenPGP message that contains what it
// says, sigstore's the signature alone.
const (
	KindSimple   Kind = "simple"
	KindSigstore Kind = "sigstore"
)

// Payload is what a signature of a kind is to say: that the manifest or index with
// this digest is what a name means.
func Payload(kind Kind, digest string, name Reference, creator string, at time.Time) ([]byte, error) {
	var p payload
	switch kind {
	case KindSimple:
		p.Critical.Type = simpleType
	case KindSigstore:
		p.Critical.Type = sigstoreType
	default:
		return nil, fmt.Errorf("signature: kind %q is neither %s nor %s", kind, KindSimple, KindSigstore)
	}
	p.Critical.Image.Digest, p.Critical.Identity.Reference = digest, name.String()
	var err error
	p.Optional, err = json.Marshal(struct {
		Creator   string `json:"creator"`
		Timestamp int64  `json:"timestamp"`
	}{creator, at.Unix()})
	if err != nil {
		return nil, err
	}
	return json.Marshal(p)
}
