package policy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"time"
)

// signedEntry is what a transparency log gives whoever adds a signature to it, as
// cosign keeps it beside the signature: the log's promise, a signature over the entry,
// which needs no network to be verified.
type signedEntry struct {
	Timestamp []byte   `json:"SignedEntryTimestamp"`
	Entry     logEntry `json:"Payload"`
}

// logEntry has its fields in the order of RFC 8785, as the log signs them.
type logEntry struct {
	Body           string `json:"body"` // base64 of a hashedRekord
	IntegratedTime int64  `json:"integratedTime"`
	LogID          string `json:"logID"`
	LogIndex       int64  `json:"logIndex"`
}

// hashedRekord is the kind of entry that a signature makes. What else the log has in
// it is of no matter here.
type hashedRekord struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Spec       struct {
		Data struct {
			Hash struct {
				Algorithm string `json:"algorithm"`
				Value     string `json:"value"`
			} `json:"hash"`
		} `json:"data"`
		Signature struct {
			Content   []byte `json:"content"`
			PublicKey struct {
				Content []byte `json:"content"` // PEM, of a key or a certificate
			} `json:"publicKey"`
		} `json:"signature"`
	} `json:"spec"`
}

// rekorKeys reads the public keys of transparency logs.
func rekorKeys(files [][]byte) ([]*ecdsa.PublicKey, error) {
	keys, err := publicKeys(files)
	if err != nil {
		return nil, fmt.Errorf("rekor: %w", err)
	}
	var all []*ecdsa.PublicKey
	for _, key := range keys {
		k, ok := key.(*ecdsa.PublicKey)
		if !ok {
			return nil, fmt.Errorf("rekor: key: %T is not ECDSA's", key)
		}
		all = append(all, k)
	}
	return all, nil
}

// loggedAt checks that one of the logs promises to have this signature, made by the
// key or certificate with this DER, and returns when it came in.
func loggedAt(logs []*ecdsa.PublicKey, s Sigstore, der []byte) (time.Time, error) {
	fail := func(format string, args ...any) (time.Time, error) {
		return time.Time{}, fmt.Errorf("signature: its transparency log: "+format, args...)
	}
	if len(s.Bundle) == 0 {
		return fail("there is no entry with it")
	}
	var signed signedEntry
	if err := strictly(s.Bundle, &signed); err != nil {
		return fail("%w", err)
	}
	// What follows holds only base64 and hexadecimal digits, so that encoding/json
	// writes it as RFC 8785 does.
	body, err := base64.StdEncoding.DecodeString(signed.Entry.Body)
	if err != nil {
		return fail("body: %w", err)
	}
	if _, err := hex.DecodeString(signed.Entry.LogID); err != nil {
		return fail("logID: %w", err)
	}
	canonical, err := json.Marshal(signed.Entry)
	if err != nil {
		return fail("%w", err)
	}
	sum := sha256.Sum256(canonical)
	promised := false
	for _, log := range logs {
		promised = promised || ecdsa.VerifyASN1(log, sum[:], signed.Timestamp)
	}
	if !promised {
		return fail("none of the policy's keys has signed the entry")
	}

	if err := exactly(json.NewDecoder(bytes.NewReader(body)), "", nil); err != nil {
		return fail("%w", err)
	}
	var record hashedRekord
	if err := json.Unmarshal(body, &record); err != nil {
		return fail("%w", err)
	}
	hash := record.Spec.Data.Hash
	payload := sha256.Sum256(s.Payload)
	maker, rest := pem.Decode(record.Spec.Signature.PublicKey.Content)
	switch {
	case record.Kind != "hashedrekord" || record.APIVersion != "0.0.1":
		return fail("an entry of kind %q %q, not hashedrekord 0.0.1", record.Kind, record.APIVersion)
	case hash.Algorithm != "sha256" || hash.Value != hex.EncodeToString(payload[:]):
		return fail("the entry is for another content: %s:%s", hash.Algorithm, hash.Value)
	case !bytes.Equal(record.Spec.Signature.Content, s.Signature):
		return fail("the entry is for another signature")
	case maker == nil || len(bytes.TrimSpace(rest)) > 0 || !bytes.Equal(maker.Bytes, der):
		return fail("the entry is for another key or certificate")
	}
	return time.Unix(signed.Entry.IntegratedTime, 0), nil
}
