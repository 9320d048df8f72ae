package cli

import (
	"strings"
	"testing"

	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

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
