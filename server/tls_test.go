package server

import (
	"crypto/tls"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/strake-containers/strake/internal/certs"
	"github.com/strake-containers/strake/internal/testutil"
)

// Off the unix socket, calls are taken from nobody but who has a certificate of the
// authority's.
func TestCallsOverTLS(t *testing.T) {
	dir := t.TempDir()
	ca, other := testutil.NewCA(t), testutil.NewCA(t)
	files := certs.Files{Cert: dir + "/cert.pem", Key: dir + "/key.pem", ClientCA: ca.File}
	ca.Issue("straked", files.Cert, files.Key)
	log := slog.New(slog.DiscardHandler)
	l, err := ListenTLS(t.Context(), "127.0.0.1:0", files, log)
	if err != nil {
		t.Fatal(err)
	}
	rpc := NewGRPC(log, func(string, codes.Code, time.Duration) {}, nil)
	done := make(chan error)
	go func() { done <- rpc.Serve(l) }()
	secure := func(clients ...tls.Certificate) credentials.TransportCredentials {
		return credentials.NewTLS(&tls.Config{RootCAs: ca.Pool, Certificates: clients})
	}
	for name, c := range map[string]struct {
		credentials credentials.TransportCredentials
		want        codes.Code
	}{
		"known":               {secure(ca.Pair("client")), codes.Unimplemented}, // it has no services
		"of somebody else":    {secure(other.Pair("client")), codes.Unavailable},
		"without certificate": {secure(), codes.Unavailable},
		"without TLS":         {insecure.NewCredentials(), codes.Unavailable},
	} {
		conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(c.credentials))
		if err != nil {
			t.Fatal(err)
		}
		err = conn.Invoke(t.Context(), "/a.B/C", &emptypb.Empty{}, &emptypb.Empty{})
		if status.Code(err) != c.want {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
	rpc.Stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
