package auth

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/stacyvm/stacyvm/internal/strictjson"
)

// maxWorkerToken bounds what is looked at, in bytes.
const maxWorkerToken = 4 << 10

// A signed token is stacyvm-worker-v1.<claims>.<HMAC-SHA256 of what stands before>, both in
// base64url without padding.
const (
	tokenFamily = "stacyvm-worker-"
	tokenPrefix = tokenFamily + "v1"
)

// sealHMAC makes a signed token.
func sealHMAC(key []byte, c claims) (string, error) {
	payload, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	signed := tokenPrefix + "." + base64.RawURLEncoding.EncodeToString(payload)
	return signed + "." + base64.RawURLEncoding.EncodeToString(sumHMAC(key, signed)), nil
}

func sumHMAC(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// openHMAC gives a signed token's claims when one of the keys signed it. ok says so.
func openHMAC(keys [][]byte, token string) (c claims, ok bool) {
	signed, payload, sum, ok := splitHMAC(token)
	if !ok {
		return c, false
	}
	right := false
	for _, key := range keys { // all of them, so that the time does not tell which one
		right = hmac.Equal(sumHMAC(key, signed), sum) || right
	}
	return c, right && strictjson.Unmarshal(payload, &c) == nil
}

// splitHMAC takes a token apart without judging it.
func splitHMAC(token string) (signed string, payload, sum []byte, ok bool) {
	parts := strings.Split(token, ".")
	if len(token) > maxWorkerToken || len(parts) != 3 || parts[0] != tokenPrefix {
		return "", nil, nil, false
	}
	payload, payloadOK := decodeSegment(parts[1])
	sum, sumOK := decodeSegment(parts[2])
	return parts[0] + "." + parts[1], payload, sum, payloadOK && sumOK && len(sum) == sha256.Size
}

// decodeSegment takes the one canonical spelling only: there is one text for one token.
func decodeSegment(text string) ([]byte, bool) {
	decoded, err := base64.RawURLEncoding.DecodeString(text)
	return decoded, err == nil && base64.RawURLEncoding.EncodeToString(decoded) == text
}

// readHMAC gives a signed token's claims without verifying them.
func readHMAC(token string) (c claims, ok bool) {
	_, payload, _, ok := splitHMAC(token)
	return c, ok && strictjson.Unmarshal(payload, &c) == nil
}
