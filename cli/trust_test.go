package cli

import (
	"strings"
	"testing"

	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

func TestRequirementsText(t *testing.T) {
	for list, want := range map[string]string{
		`[{"type":"signedBy","keyType":"GPGKeys","keyPaths":["/a","/b"]}]`:                                                                           "signedBy /a or /b",
		`[{"type":"sigstoreSigned","keyDatas":["eA==","eA=="]}]`:                                                                                     "sigstoreSigned 2 in the policy",
		`[{"type":"sigstoreSigned","keyPath":"/k","rekorPublicKeyData":"eA==","signedIdentity":{"type":"matchExact"}}]`:                              "sigstoreSigned /k, logged by 1 in the policy (matchExact)",
		`[{"type":"sigstoreSigned","fulcio":{"caPath":"/ca","oidcIssuer":"https://id/","subjectEmail":"me@example.org"},"rekorPublicKeyPath":"/r"}]`: "sigstoreSigned by me@example.org, whom https://id/ knows, certified by fulcio with /ca, logged by /r",
		`[{"type":"sigstoreSigned","pki":{"caRootsData":"eA==","subjectEmail":"me@example.org","subjectHostname":"h"}}]`:                             "sigstoreSigned by me@example.org at h, certified by 1 in the policy",
	} {
		if got, err := requirementsText([]byte(list)); err != nil || got != want {
			t.Errorf("%s: %s %v", list, got, err)
		}
	}
}

func TestTrustExplain(t *testing.T) {
	signed := []byte(`[{"type":"signedBy","keyPath":"/k","signedIdentity":{"type":"matchRepository"}},{"type":"reject"}]`)
	for want, r := range map[string]*strakev1.ShowTrustResponse{
		"image     a:1\nfrom      docker:a:1\npolicy    /p: default\nrequires  signedBy /k (matchRepository), and reject\nrefused   why\n": {
			File: "/p", Decision: &strakev1.TrustDecision{Image: "a:1", Origin: "docker:a:1", Scope: "default", Requirements: signed, Reason: "why"}},
		"image     a:1\nfrom      import:\npolicy    is not asked: the image was made here\naccepted\n": {
			File: "/p", Decision: &strakev1.TrustDecision{Image: "a:1", Origin: "import:"}},
		"image     a:1\nfrom      docker:a:1\npolicy    none\naccepted\n": {
			Decision: &strakev1.TrustDecision{Image: "a:1", Origin: "docker:a:1"}},
	} {
		var out strings.Builder
		if err := trustOf(r).explain(&out); err != nil || out.String() != want {
			t.Errorf("%v\n%s", err, &out)
		}
	}
}
