package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/strake-containers/strake/internal/credhelper"
)

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

const (
	maxTokenBody = 1 << 20
	// minTokenLife is what the specification wants a client to assume.
	minTokenLife = 60 * time.Second
)

// forEndpoint returns the credentials that ep may see. They were given for a
// registry: a mirror, which anybody may run, gets them only when ServerAddress
// names it.
func (a *Auth) forEndpoint(ep endpoint, domain string) *Auth {
	if a == nil {
		return nil
	}
	if a.ServerAddress == "" {
		if !ep.upstream {
			return nil
		}
		return a
	}
	server := a.ServerAddress
	if _, rest, ok := strings.Cut(server, "://"); ok {
		server = rest
	}
	server, _, _ = strings.Cut(server, "/")
	if server == "index.docker.io" {
		server = defaultDomain
	}
	if server == ep.base.Host || ep.upstream && server == domain {
		return a
	}
	return nil
}

// userPassword gives the pair in either form; both are "" if there is none.
func (a *Auth) userPassword() (user, password string, err error) {
	if a == nil {
		return "", "", nil
	}
	if a.Username != "" || a.Password != "" || a.Auth == "" {
		return a.Username, a.Password, nil
	}
	data, err := base64.StdEncoding.DecodeString(a.Auth)
	if err != nil {
		return "", "", fmt.Errorf("%w: the auth field is not base64", ErrUnauthorized)
	}
	user, password, ok := strings.Cut(strings.TrimRight(string(data), "\x00"), ":")
	if !ok {
		return "", "", fmt.Errorf("%w: the auth field has no colon", ErrUnauthorized)
	}
	return user, password, nil
}

// authorizer answers a host's challenges for one repository.
type authorizer struct {
	host      *host
	userAgent string
	helpers   []string // who is asked, once, when there are no credentials
	server    string   // what they are asked for

	mu          sync.Mutex // held over the token request: callers wait for one token
	credentials *Auth
	header      string    // of Authorization; "" before the first challenge
	until       time.Time // zero: for ever
}

// sign adds what was learnt from an earlier challenge.
func (a *authorizer) sign(req *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.header != "" && (a.until.IsZero() || time.Now().Before(a.until)) {
		req.Header.Set("Authorization", a.header)
	}
}

// authenticate learns the Authorization header that the challenges ask for.
func (a *authorizer) authenticate(ctx context.Context, challenges []string, repository string, scopes []string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.credentials != nil && a.credentials.RegistryToken != "" {
		a.header = "Bearer " + a.credentials.RegistryToken
		return nil
	}
	if err := a.askHelpers(ctx); err != nil {
		return err
	}
	user, password, err := a.credentials.userPassword()
	if err != nil {
		return err
	}
	var basic bool
	for _, c := range parseChallenges(challenges) {
		switch c.scheme {
		case "bearer":
			return a.fetchToken(ctx, c.params, repository, scopes, user, password)
		case "basic":
			basic = true
		}
	}
	if basic && user+password != "" {
		a.header = "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
		return nil
	}
	if basic {
		return fmt.Errorf("%w: %s wants a user name and password: log in to it", ErrUnauthorized, a.host.base.Host)
	}
	return fmt.Errorf("%w: %s asks for no known kind of authentication", ErrUnauthorized, a.host.base.Host)
}

// askHelpers looks for credentials where nobody gave any, in the order of
// registries.conf. One that fails counts when no other has some. mu is held.
func (a *authorizer) askHelpers(ctx context.Context) error {
	if a.credentials != nil || len(a.helpers) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, headerTimeout)
	defer cancel()
	var errs []error
	for _, helper := range a.helpers {
		if helper == credhelper.AuthFiles {
			continue // a person's, who gives us what is in them
		}
		c, err := credhelper.Ask(ctx, helper, a.server)
		if err != nil {
			errs = append(errs, fmt.Errorf("credentials for %s by registries.conf's credential-helpers: %w", a.server, err))
			continue
		}
		if c != (credhelper.Credentials{}) {
			a.credentials = &Auth{Username: c.Username, Password: c.Password, IdentityToken: c.IdentityToken}
			return nil
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("%w: %w", ErrUnauthorized, errors.Join(errs...))
	}
	a.helpers = nil // they have none
	return nil
}

// fetchToken asks the token service named by a Bearer challenge.
func (a *authorizer) fetchToken(ctx context.Context, params map[string]string, repository string, scopes []string, user, password string) error {
	realm, err := url.Parse(params["realm"])
	if err != nil || realm.Host == "" {
		return fmt.Errorf("%w: %s names no token service", ErrUnauthorized, a.host.base.Host)
	}
	if realm.Scheme != "https" && (realm.Scheme != "http" || a.host.base.Scheme != "http") {
		return fmt.Errorf("%w: %s names a token service by %q: https is required", ErrUnauthorized, a.host.base.Host, realm.Scheme)
	}
	scope := params["scope"]
	if scope == "" {
		scope = "repository:" + repository + ":pull"
	}
	scopes = append([]string{scope}, scopes...)
	ctx, cancel := context.WithTimeout(ctx, headerTimeout)
	defer cancel()
	req, err := a.tokenRequest(ctx, realm, params["service"], scopes, user, password)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", a.userAgent)
	resp, err := a.host.http.Do(req)
	if err != nil {
		return transportError(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return statusError(resp, resp.Body)
	}
	var token struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
		ExpiresIn   int64  `json:"expires_in"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxTokenBody)).Decode(&token); err != nil {
		return fmt.Errorf("%w: the answer of %s is no token: %w", ErrUnauthorized, realm.Host, err)
	}
	if token.Token == "" {
		token.Token = token.AccessToken
	}
	if token.Token == "" {
		return fmt.Errorf("%w: the answer of %s has no token", ErrUnauthorized, realm.Host)
	}
	// By our clock, from now: the service's may be another.
	life := max(time.Duration(min(token.ExpiresIn, 86400))*time.Second, minTokenLife)
	a.header, a.until = "Bearer "+token.Token, time.Now().Add(life*9/10)
	return nil
}

// tokenRequest is a GET with a password, or OAuth2's POST with a refresh token.
func (a *authorizer) tokenRequest(ctx context.Context, realm *url.URL, service string, scopes []string, user, password string) (*http.Request, error) {
	if a.credentials != nil && a.credentials.IdentityToken != "" {
		form := url.Values{
			"grant_type": {"refresh_token"}, "refresh_token": {a.credentials.IdentityToken},
			"service": {service}, "scope": {strings.Join(scopes, " ")}, "client_id": {a.userAgent},
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, realm.String(), strings.NewReader(form.Encode()))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return req, nil
	}
	q := realm.Query()
	if service != "" {
		q.Set("service", service)
	}
	q["scope"] = scopes
	u := *realm
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err == nil && user+password != "" {
		req.SetBasicAuth(user, password)
	}
	return req, err
}

type challenge struct {
	scheme string // lower case
	params map[string]string
}

// parseChallenges reads WWW-Authenticate values: a scheme, then parameters of
// name=token or name="quoted", separated by commas; several schemes may share a
// line (RFC 9110, 11.6.1).
func parseChallenges(values []string) []challenge {
	var all []challenge
	for _, v := range values {
		for v = skipSeparators(v); v != ""; v = skipSeparators(v) {
			word, rest := cutToken(v)
			if word == "" {
				break // not ours to understand
			}
			if !strings.HasPrefix(rest, "=") {
				all = append(all, challenge{strings.ToLower(word), map[string]string{}})
				v = rest
				continue
			}
			value, rest := cutValue(rest[1:])
			if len(all) > 0 {
				all[len(all)-1].params[strings.ToLower(word)] = value
			}
			v = rest
		}
	}
	return all
}

func skipSeparators(s string) string { return strings.TrimLeft(s, ", \t") }

func cutToken(s string) (token, rest string) {
	i := strings.IndexFunc(s, func(c rune) bool {
		return !unicode.IsLetter(c) && !unicode.IsDigit(c) && !strings.ContainsRune("!#$%&'*+-.^_`|~/:", c)
	})
	if i < 0 {
		return s, ""
	}
	return s[:i], s[i:]
}

func cutValue(s string) (value, rest string) {
	if !strings.HasPrefix(s, `"`) {
		return cutToken(s)
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:]
		case '\\':
			if i++; i < len(s) {
				b.WriteByte(s[i])
			}
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), ""
}

// errorText is the message of a registry's JSON error, or "".
func errorText(body []byte) string {
	var e struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	if json.Unmarshal(body, &e) != nil || len(e.Errors) == 0 {
		return ""
	}
	text := strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) {
			return c
		}
		return ' '
	}, e.Errors[0].Code+" "+e.Errors[0].Message)
	return strings.TrimSpace(text[:min(len(text), 300)])
}
