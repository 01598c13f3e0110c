package auth_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"maps"
	"math"
	"strings"
	"testing"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// accepting takes both kinds of signed tokens.
func accepting(t testing.TB) *auth.WorkerVerifier {
	return newVerifier(t, auth.WorkerVerifierConfig{
		SigningKey: auth.FixedSecret(keyA.privatePEM()), RotationKeys: auth.FixedSecrets([]string{secretA, keyB.publicPEM()}),
		Shared: auth.FixedSecret("the shared staging token"),
	})
}

// forgeries are tokens that must not be accepted, by what is wrong with them.
func forgeries() map[string]string {
	signed, jwt := sign(secretA, signedClaims()), keyA.jwt(keyA.header(), jwtClaims())
	found := map[string]string{
		"empty": "", "dots": "..", "a dot": ".", "prefix alone": "stacyvm-worker-v1", "no claims": "stacyvm-worker-v1..", "two parts": signed[:strings.LastIndex(signed, ".")],
		"no signature": signed[:strings.LastIndex(signed, ".")+1], "next version": strings.Replace(signed, "v1", "v2", 1), "older version": strings.Replace(signed, "v1", "v0", 1),
		"another spelling of the version": strings.Replace(signed, "v1", "V1", 1), "no version": strings.Replace(signed, "-v1", "-", 1),
		"static token and more": "the shared staging token2", "half a static token": "the shared staging", "static token in capitals": "THE SHARED STAGING TOKEN", "kilobytes": strings.Repeat("x", 5<<10), "megabytes": strings.Repeat("x", 1<<20),
		"signed and huge": sign(secretA, signedClaims().with("scopes", []string{strings.Repeat("x", 5<<10)})),
		"JWT and huge":    keyA.jwt(keyA.header(), jwtClaims().with("scopes", []string{strings.Repeat("x", 5<<10)})),
		"many parts":      strings.Repeat("eyJ.", 1000),
	}
	for kind, token := range map[string]string{"signed": signed, "JWT": jwt} {
		for name, changed := range respelt(token) {
			found[kind+" "+name] = changed
		}
	}
	for _, version := range []string{"stacyvm-worker-v2", "stacyvm-worker-", "stacyvm-worker-v11", "stacyvm-join-v1", ""} {
		found["signed as "+version] = signVersion(secretA, version, signedClaims().encode())
	}
	maps.Copy(found, confused())
	for name, change := range brokenClaims() {
		found["signed with "+name] = sign(secretA, change(signedClaims()))
		found["JWT with "+name] = keyA.jwt(keyA.header(), asJWT(change(signedClaims())))
	}
	for name, payload := range map[string]string{
		"trailing JSON": `{"worker_id":"worker-a"}{}`, "an array": `[]`, "null": `null`, "nothing": ``, "text": `"x"`, "half": `{"worker_id":`, "depth": strings.Repeat("[", 2000),
		"of two workers":          strings.Replace(signedClaims().text(), "{", `{"worker_id":"worker-b",`, 1),
		"of a worker in capitals": strings.Replace(signedClaims().text(), `"worker_id"`, `"Worker_ID"`, 1),
		"with two ends":           strings.Replace(jwtClaims().text(), "{", `{"exp":1,`, 1),
		"with an end in capitals": strings.Replace(jwtClaims().text(), `"exp"`, `"EXP"`, 1),
		"with half a character":   strings.Replace(signedClaims().text(), "{", `{"note":"\ud800",`, 1),
	} {
		found["signed payload is "+name] = signText(secretA, b64([]byte(payload)))
		text := keyA.header().encode() + "." + b64([]byte(payload))
		found["JWT payload is "+name] = text + "." + b64(ed25519.Sign(keyA.private, []byte(text)))
	}
	return found
}

// respelt gives other spellings of a good token, and small changes.
func respelt(token string) map[string]string {
	dot := strings.LastIndex(token, ".")
	body, sum := token[:dot], token[dot+1:]
	raw, err := base64.RawURLEncoding.DecodeString(sum)
	if err != nil {
		panic(err)
	}
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(digits, sum[len(sum)-1])
	flipped := append([]byte{}, raw...)
	flipped[0] ^= 1
	return map[string]string{
		"with another part": token + ".x", "with an empty part": token + ".", "with padding": token + "=", "with a line end": token + "\n", "with a space before": " " + token,
		"with a line end inside": body + "." + sum[:8] + "\n" + sum[8:], "with a return inside the claims": body[:40] + "\r" + body[40:] + "." + sum,
		"with loose last bits": body + "." + sum[:len(sum)-1] + string(digits[last^1]), "in the other alphabet": body + "." + base64.RawStdEncoding.EncodeToString(append(raw[:len(raw)-1:len(raw)-1], 0xff)),
		"with a short signature": body + "." + b64(raw[:len(raw)-1]), "with a long signature": body + "." + b64(append(raw, 0)), "with one bit changed": body + "." + b64(flipped),
		"with a zero": token + "\x00", "with another case": strings.ToUpper(token), "twice": token + token, "as a bearer value": "Bearer " + token,
	}
}

// confused gives tokens whose algorithm or key is not the one that it should be.
func confused() map[string]string {
	unsigned := func(alg any) string {
		return keyA.header().with("alg", alg).encode() + "." + jwtClaims().encode() + "."
	}
	shared := func(alg, key string) string {
		text := keyA.header().with("alg", alg).encode() + "." + jwtClaims().encode()
		return text + "." + b64(hs256(key, text))
	}
	found := map[string]string{
		"HS256 with an HMAC key":       shared("HS256", secretA),
		"signed with a stranger's key": sign(secretC, signedClaims()), "signed with an empty key": sign("", signedClaims()),
		"JWT of a stranger's key": keyC.jwt(keyC.header(), jwtClaims()), "JWT under another's kid": keyC.jwt(keyA.header(), jwtClaims()), "JWT with another accepted kid": keyA.jwt(keyB.header(), jwtClaims()),
		"EdDSA signature in the other form": strings.Replace(sign(secretA, signedClaims()), sign(secretA, signedClaims())[80:], "", 1) + "." + b64(make([]byte, 64)),
	}
	for name, alg := range map[string]any{"none": "none", "None": "None", "NONE": "NONE", "empty": "", "number": 1, "null": "null", "list": []string{"EdDSA"}, "missing": nil, "ES256": "ES256", "RS256": "RS256", "eddsa": "eddsa", "Ed25519": "Ed25519"} {
		found["alg "+name+" without a signature"] = unsigned(alg)
		found["alg "+name+" with the right signature"] = keyA.jwt(keyA.header().with("alg", alg), jwtClaims())
	}
	for name, key := range map[string]string{"PEM": keyA.publicPEM(), "trimmed PEM": strings.TrimSpace(keyA.publicPEM()), "bytes": string(keyA.public()), "thumbprint": keyA.kid(), "nothing": ""} {
		found["signed with the public key's "+name] = sign(key, signedClaims())
		for _, alg := range []string{"HS256", "EdDSA"} {
			found[alg+" with the public key's "+name] = shared(alg, key)
		}
	}
	for name, header := range map[string]string{
		"two algorithms": strings.Replace(keyA.header().text(), "{", `{"alg":"none",`, 1), "two kids": strings.Replace(keyA.header().text(), "{", `{"kid":"x",`, 1),
		"half a character": strings.Replace(keyA.header().text(), `"EdDSA"`, `"EdDSA\udfff"`, 1),
	} {
		text := b64([]byte(header)) + "." + jwtClaims().encode()
		found["JWT header with "+name] = text + "." + b64(ed25519.Sign(keyA.private, []byte(text)))
	}
	for name, header := range map[string]object{
		"no kid": keyA.header().with("kid", nil), "kid is a number": keyA.header().with("kid", 1), "kid is a path": keyA.header().with("kid", "/dev/null"), "no typ": keyA.header().with("typ", nil), "typ JWT": keyA.header().with("typ", "JWT"),
		"crit": keyA.header().with("crit", []string{"b64"}), "a key of its own": keyC.header().with("jwk", object{"kty": "OKP", "crv": "Ed25519", "x": b64(keyC.public())}),
		"an address of a key": keyC.header().with("jku", "http://127.0.0.1/"), "compression": keyA.header().with("zip", "DEF"),
	} {
		pair := keyA
		if header["kid"] == keyC.kid() {
			pair = keyC
		}
		found["JWT header with "+name] = pair.jwt(header, jwtClaims())
	}
	return found
}

// brokenClaims spoil the claims of a token that is signed well.
func brokenClaims() map[string]func(object) object {
	found := map[string]func(object) object{}
	set := func(name string, values map[string]any) {
		for label, value := range values {
			found[fmt.Sprintf("%s %s", name, label)] = func(claims object) object { return claims.with(name, value) }
		}
	}
	now := noon.Unix()
	set("exp", map[string]any{"missing": nil, "zero": 0, "negative": -1, "least": int64(math.MinInt64), "greatest": int64(math.MaxInt64), "text": "soon", "far": now + 1<<40, "list": []int{1}, "true": true, "infinite": "Infinity"})
	set("iat", map[string]any{"missing": nil, "zero": 0, "negative": -1, "least": int64(math.MinInt64), "greatest": int64(math.MaxInt64), "text": "now", "long ago": now - 1<<40})
	set("nbf", map[string]any{"greatest": int64(math.MaxInt64), "text": "now", "tomorrow": now + 86400})
	set("jti", map[string]any{"missing": nil, "empty": "", "long": strings.Repeat("a", 65), "spaced": "a b", "number": 7})
	set("aud", map[string]any{"missing": nil, "empty": "", "unknown": "worker:all", "near": "worker:control-plane ", "both": []string{"worker:control-plane", "worker:rpc"}, "none": []string{}, "number": 7, "other": "worker:rpc"})
	set("worker_id", map[string]any{"missing": nil, "empty": "", "another": "worker-b", "near": "worker-a ", "case": "Worker-A", "number": 7, "list": []string{"worker-a"}})
	set("scopes", map[string]any{"text": "worker:exec", "number": 7, "object": object{"a": 1}, "numbers": []int{1}})
	return found
}

// TestForgeries: what is no token of the server's is refused, and the error tells nothing of it.
func TestForgeries(t *testing.T) {
	v := accepting(t)
	for name, good := range map[string]string{"signed": sign(secretA, signedClaims()), "jwt": keyA.jwt(keyA.header(), jwtClaims()), "jwt of the rotated key": keyB.jwt(keyB.header(), jwtClaims()), "audience in a list": keyA.jwt(keyA.header(), jwtClaims().with("aud", []string{"worker:control-plane"})), "unknown claim": sign(secretA, signedClaims().with("note", "x"))} {
		if _, err := v.Verify(auth.WorkerCredential{WorkerID: "worker-a", Token: good}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	all := forgeries()
	for name, token := range all {
		given := auth.WorkerCredential{WorkerID: "worker-a", Token: token}
		_, err := v.Verify(given)
		mustRefuse(t, name, err, given)
	}
	if len(all) < 180 {
		t.Errorf("only %d forgeries: some have the same name", len(all))
	}
}

// TestCutTokens: no part of a good token is one, and no good token with one character changed.
func TestCutTokens(t *testing.T) {
	v := accepting(t)
	for _, token := range []string{sign(secretA, signedClaims()), keyA.jwt(keyA.header(), jwtClaims())} {
		for i := range token {
			for what, changed := range map[string]string{"cut": token[:i], "without": token[:i] + token[i+1:], "changed": token[:i] + string(token[i]^1) + token[i+1:], "doubled": token[:i] + token[i:i+1] + token[i:]} {
				given := auth.WorkerCredential{WorkerID: "worker-a", Token: changed}
				if _, err := v.Verify(given); stacyvm.CodeOf(err) != stacyvm.CodeUnauthenticated {
					t.Errorf("%s at %d: %v", what, i, err)
				}
			}
		}
	}
}

// FuzzWorkerToken: only the tokens that were signed are accepted, each in one spelling, and
// nothing else does more than fail.
func FuzzWorkerToken(f *testing.F) {
	v := accepting(f)
	good := map[string]bool{"the shared staging token": true}
	for _, claims := range []object{signedClaims(), signedClaims().with("scopes", []string{"worker:exec"}), signedClaims().with("nbf", noon.Unix())} {
		good[sign(secretA, claims)] = true
		good[keyA.jwt(keyA.header(), asJWT(claims))] = true
	}
	for token := range good {
		f.Add(token)
	}
	for _, token := range forgeries() {
		if len(token) < 8<<10 {
			f.Add(token)
		}
	}
	f.Fuzz(func(t *testing.T, token string) {
		_, err := v.Verify(auth.WorkerCredential{WorkerID: "worker-a", Token: token})
		if err == nil && !good[token] {
			t.Errorf("accepted %q", token)
		}
		if err != nil && stacyvm.CodeOf(err) != stacyvm.CodeUnauthenticated {
			t.Errorf("error %v", err)
		}
		if _, err := auth.InspectWorkerToken(token); err != nil && stacyvm.CodeOf(err) != stacyvm.CodeInvalid {
			t.Errorf("inspect: %v", err)
		}
	})
}
