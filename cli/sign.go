package cli

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
	"github.com/spf13/cobra"

	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

const (
	maxSecret = 32 << 10 // less than a pipe holds (pipe(7))
	// passwordVariable is where cosign looks for a key's passphrase.
	passwordVariable = "COSIGN_PASSWORD" //nolint:gosec // the name of a variable
)

// The types of PEM blocks with an encrypted key, of before and of today.
const (
	cosignKey   = "ENCRYPTED COSIGN PRIVATE KEY"
	sigstoreKey = "ENCRYPTED SIGSTORE PRIVATE KEY"
)

// signer makes signatures of one kind, "simple" or "sigstore".
type signer struct {
	kind string
	sign func(ctx context.Context, payload []byte) ([]byte, error)
}

func (a *app) signCommand() *cobra.Command {
	var gpgKey, keyFile, passphraseFile, identity string
	cmd := &cobra.Command{
		Use:   "sign [flags] IMAGE [NAME]",
		Short: "Sign an image as it lies in a registry",
		Long: "Sign an image as it lies in a registry, under its own name or NAME, and store the signature\n" +
			"where registries.d says: with --sign-by in the lookaside, or in the registry itself where that\n" +
			"keeps signatures; with --sign-by-sigstore-private-key beside the image, if use-sigstore-attachments\n" +
			"is set. The key is read here: straked never sees it.\n\n" +
			"A private key is ECDSA P-256 in PEM: as cosign or skopeo encrypts it, PKCS#8, or SEC 1.",
		Args:              between(1, 2, "an image, and perhaps its name in the registry"),
		ValidArgsFunction: a.completeImages,
	}
	cmd.Flags().StringVar(&gpgKey, "sign-by", "", "sign with this GPG key, a fingerprint, by the gpg program")
	cmd.Flags().StringVar(&keyFile, "sign-by-sigstore-private-key", "", "sign with the key in this file")
	cmd.Flags().StringVar(&passphraseFile, "sign-passphrase-file", "", "the key's passphrase is the first line of this file (default $"+passwordVariable+", or what gpg asks for)")
	cmd.Flags().StringVar(&identity, "sign-identity", "", "the name that the image is signed for (default the one it has there)")
	cmd.MarkFlagsMutuallyExclusive("sign-by", "sign-by-sigstore-private-key")
	cmd.MarkFlagsOneRequired("sign-by", "sign-by-sigstore-private-key")
	cmd.RunE = a.connect(func(ctx context.Context, c *client, args []string) error {
		passphrase, err := readPassphrase(passphraseFile)
		if err != nil {
			return err
		}
		s := signer{"simple", func(ctx context.Context, payload []byte) ([]byte, error) {
			return gpgSign(ctx, gpgKey, passphrase, payload, a.stderr)
		}}
		if keyFile != "" {
			if s, err = sigstoreSigner(keyFile, passphrase); err != nil {
				return err
			}
		}
		in := args[len(args)-1]
		auth, err := findAuth(ctx, in, os.Getenv)
		if err != nil {
			return err
		}
		start := &strakev1.SignStart{Reference: args[0], Identity: identity, Kind: s.kind, Auth: auth}
		if len(args) > 1 {
			start.In = in
		}
		return a.sign(ctx, c, start, s)
	})
	return cmd
}

// sign answers straked until all is signed.
func (a *app) sign(ctx context.Context, c *client, start *strakev1.SignStart, s signer) error {
	stream, err := c.strake.SignImage(ctx)
	if err != nil {
		return err
	}
	// A send that fails does so because the daemon has answered: the answer says why.
	err = stream.Send(&strakev1.SignImageRequest{Event: &strakev1.SignImageRequest_Start{Start: start}})
	for err == nil || errors.Is(err, io.EOF) {
		var news *strakev1.SignImageResponse
		if news, err = stream.Recv(); err != nil {
			break
		}
		if one := news.GetSigned(); one != nil {
			fmt.Fprintf(a.stdout, "%s\t%s\n", one.Digest, one.Where)
			continue
		}
		signature, signErr := s.sign(ctx, news.GetPayload())
		if signErr != nil {
			return signErr
		}
		err = stream.Send(&strakev1.SignImageRequest{Event: &strakev1.SignImageRequest_Signature{Signature: signature}})
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// readPassphrase is the first line of a file, else what cosign's variable has; nil is
// none.
func readPassphrase(file string) ([]byte, error) {
	if file == "" {
		if text, ok := os.LookupEnv(passwordVariable); ok {
			return []byte(text), nil
		}
		return nil, nil
	}
	data, err := readSecret(file)
	if err != nil {
		return nil, fmt.Errorf("passphrase: %w", err)
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	return append([]byte{}, bytes.TrimSuffix(line, []byte("\r"))...), nil
}

// readSecret reads a key or a passphrase, of a file or of a pipe that somebody writes to.
func readSecret(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	data, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err == nil && len(data) > maxSecret {
		err = fmt.Errorf("%s: more than %d bytes", file, maxSecret)
	}
	return data, err
}

// gpgSign has the gpg program sign: its keys, its agent, its way to ask.
func gpgSign(ctx context.Context, key string, passphrase, payload []byte, stderr io.Writer) ([]byte, error) {
	args := []string{"--quiet", "--local-user", key}
	cmd := exec.CommandContext(ctx, "gpg")
	if passphrase != nil {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		defer func() { _ = r.Close() }()           // the child's
		_, err = w.Write(append(passphrase, '\n')) // the pipe holds it
		if err = errors.Join(err, w.Close()); err != nil {
			return nil, err
		}
		cmd.ExtraFiles = []*os.File{r} // descriptor 3
		args = append(args, "--batch", "--pinentry-mode", "loopback", "--passphrase-fd", "3")
	}
	cmd.Args = append(cmd.Args, append(args, "--output", "-", "--sign")...)
	cmd.Stdin = bytes.NewReader(payload)
	var said bytes.Buffer
	cmd.Stderr = io.MultiWriter(stderr, &said)
	signature, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("gpg: %w", errors.Join(err, errors.New(strings.TrimSpace(said.String()))))
	}
	return signature, nil
}

// sigstoreSigner reads a private key.
func sigstoreSigner(file string, passphrase []byte) (signer, error) {
	data, err := readSecret(file)
	if err != nil {
		return signer{}, fmt.Errorf("key: %w", err)
	}
	key, err := parseKey(data, passphrase)
	if err != nil {
		return signer{}, fmt.Errorf("key %s: %w", file, err)
	}
	return signer{"sigstore", func(_ context.Context, payload []byte) ([]byte, error) {
		sum := sha256.Sum256(payload)
		return key.Sign(rand.Reader, sum[:], crypto.SHA256)
	}}, nil
}

// parseKey reads an ECDSA P-256 key in PEM.
func parseKey(data, passphrase []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("no PEM private key")
	}
	var key any
	var err error
	switch block.Type {
	case cosignKey, sigstoreKey:
		if passphrase == nil {
			return nil, fmt.Errorf("it is encrypted: give its passphrase by --sign-passphrase-file or $%s", passwordVariable)
		}
		der, decryptErr := encrypted.Decrypt(block.Bytes, passphrase)
		if decryptErr != nil {
			return nil, fmt.Errorf("the passphrase is not its: %w", decryptErr)
		}
		key, err = x509.ParsePKCS8PrivateKey(der)
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("PEM of type %q is not one of PRIVATE KEY, EC PRIVATE KEY, %s, %s", block.Type, sigstoreKey, cosignKey)
	}
	if err != nil {
		return nil, err
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, errors.New("it is not of ECDSA P-256")
	}
	return ec, nil
}
