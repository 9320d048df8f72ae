package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

// imageCommand has what is not worth a verb of its own.
func (a *app) imageCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "More about images"}
	trust := &cobra.Command{Use: "trust", Short: "The signature policy"}
	trust.AddCommand(a.trustShowCommand())
	group(trust)
	cmd.AddCommand(trust, a.signCommand(), a.referrersCommand())
	return cmd
}

// trustReport is what trust show --json prints.
type trustReport struct {
	File     string         `json:"file"`
	Scopes   []trustScope   `json:"scopes"`
	Decision *trustDecision `json:"decision,omitempty"`
}

type trustScope struct {
	Transport    string          `json:"transport"`
	Scope        string          `json:"scope"`
	Requirements json.RawMessage `json:"requirements"`
}

type trustDecision struct {
	Image        string          `json:"image"`
	Origin       string          `json:"origin"`
	Scope        string          `json:"scope,omitempty"`
	Requirements json.RawMessage `json:"requirements,omitempty"`
	Accepted     bool            `json:"accepted"`
	Reason       string          `json:"reason,omitempty"`
}

func (a *app) trustShowCommand() *cobra.Command {
	var asJSON bool
	var namespace string
	cmd := &cobra.Command{
		Use:   "show [flags] [IMAGE]",
		Short: "Show the signature policy, or what it says of an image",
		Long: "Show which images the signature policy lets in: a line for each scope. With an image that is\n" +
			"here, say where it is from, which scope counts for it, and why a container of it is allowed or not.",
		Args:              between(0, 1, "at most one image"),
		ValidArgsFunction: a.completeImages,
	}
	cmd.Flags().StringVar(&namespace, "namespace", "", "as for pods of this Kubernetes namespace, which may have a policy of its own")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	cmd.RunE = a.connect(func(ctx context.Context, c *client, args []string) error {
		r, err := c.strake.ShowTrust(ctx, &strakev1.ShowTrustRequest{Reference: strings.Join(args, ""), Namespace: namespace})
		if err != nil {
			return err
		}
		report := trustOf(r)
		if asJSON {
			e := json.NewEncoder(a.stdout)
			e.SetIndent("", "  ")
			return e.Encode(report)
		}
		if report.Decision != nil {
			return report.explain(a.stdout)
		}
		if report.File == "" {
			_, err := fmt.Fprintln(a.stdout, "no policy: every image is accepted")
			return err
		}
		fmt.Fprintf(a.stdout, "policy %s\n", report.File)
		t := a.table()
		fmt.Fprintln(t, "TRANSPORT\tSCOPE\tREQUIREMENTS")
		for _, s := range report.Scopes {
			transport, scope := s.Transport, s.Scope
			if transport == "" {
				transport, scope = "default", "-"
			} else if scope == "" {
				scope = "*"
			}
			text, err := requirementsText(s.Requirements)
			if err != nil {
				return err
			}
			fmt.Fprintf(t, "%s\t%s\t%s\n", transport, scope, text)
		}
		return t.Flush()
	})
	return cmd
}

func trustOf(r *strakev1.ShowTrustResponse) trustReport {
	report := trustReport{File: r.File, Scopes: []trustScope{}}
	for _, s := range r.Scopes {
		report.Scopes = append(report.Scopes, trustScope{s.Transport, s.Scope, s.Requirements})
	}
	if d := r.Decision; d != nil {
		report.Decision = &trustDecision{d.Image, d.Origin, d.Scope, d.Requirements, d.Reason == "", d.Reason}
	}
	return report
}

// explain tells a decision to a person.
func (r trustReport) explain(out io.Writer) error {
	d := r.Decision
	fmt.Fprintf(out, "image     %s\nfrom      %s\n", d.Image, d.Origin)
	if d.Scope != "" {
		text, err := requirementsText(d.Requirements)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "policy    %s: %s\nrequires  %s\n", r.File, d.Scope, text)
	} else if r.File == "" {
		fmt.Fprintln(out, "policy    none")
	} else {
		fmt.Fprintln(out, "policy    is not asked: the image was made here")
	}
	if d.Accepted {
		_, err := fmt.Fprintln(out, "accepted")
		return err
	}
	_, err := fmt.Fprintf(out, "refused   %s\n", d.Reason)
	return err
}

// requirement is one of policy.json's, as far as it is shown.
type requirement struct {
	Type          string            `json:"type"`
	KeyPath       string            `json:"keyPath"`
	KeyPaths      []string          `json:"keyPaths"`
	KeyData       json.RawMessage   `json:"keyData"`
	KeyDatas      []json.RawMessage `json:"keyDatas"`
	Fulcio        *authority        `json:"fulcio"`
	PKI           *authority        `json:"pki"`
	RekorKeyPath  string            `json:"rekorPublicKeyPath"`
	RekorKeyPaths []string          `json:"rekorPublicKeyPaths"`
	RekorKeyData  json.RawMessage   `json:"rekorPublicKeyData"`
	RekorKeyDatas []json.RawMessage `json:"rekorPublicKeyDatas"`
	Identity      struct {
		Type string `json:"type"`
	} `json:"signedIdentity"`
}

// authority is fulcio or a PKI; each has some of these.
type authority struct {
	CAPath          string `json:"caPath"`
	CARootsPath     string `json:"caRootsPath"`
	OIDCIssuer      string `json:"oidcIssuer"`
	SubjectEmail    string `json:"subjectEmail"`
	SubjectHostname string `json:"subjectHostname"`
}

// requirementsText puts a list on a line: the kinds, with their keys or authorities,
// persons and names.
func requirementsText(list json.RawMessage) (string, error) {
	var all []requirement
	if err := json.Unmarshal(list, &all); err != nil {
		return "", err
	}
	var words []string
	for _, r := range all {
		words = append(words, r.text())
	}
	return strings.Join(words, ", and "), nil
}

func (r requirement) text() string {
	text := r.Type
	switch {
	case r.Fulcio != nil:
		text += " by " + r.Fulcio.subject() + ", whom " + r.Fulcio.OIDCIssuer + " knows, certified by fulcio with " + keysText(r.Fulcio.CAPath, nil, 1)
	case r.PKI != nil:
		text += " by " + r.PKI.subject() + ", certified by " + keysText(r.PKI.CARootsPath, nil, 1)
	default:
		data := len(r.KeyDatas)
		if r.KeyData != nil {
			data++
		}
		if keys := keysText(r.KeyPath, r.KeyPaths, data); keys != "" {
			text += " " + keys
		}
	}
	data := len(r.RekorKeyDatas)
	if r.RekorKeyData != nil {
		data++
	}
	if logs := keysText(r.RekorKeyPath, r.RekorKeyPaths, data); logs != "" {
		text += ", logged by " + logs
	}
	if r.Identity.Type != "" {
		text += " (" + r.Identity.Type + ")"
	}
	return text
}

// subject is whom a certificate must name.
func (a authority) subject() string {
	if a.SubjectEmail != "" && a.SubjectHostname != "" {
		return a.SubjectEmail + " at " + a.SubjectHostname
	}
	return a.SubjectEmail + a.SubjectHostname
}

// keysText names files of keys, or says that so many are in the policy itself.
func keysText(path string, paths []string, data int) string {
	switch {
	case path != "":
		return path
	case len(paths) > 0:
		return strings.Join(paths, " or ")
	case data > 0:
		return fmt.Sprintf("%d in the policy", data)
	}
	return ""
}
