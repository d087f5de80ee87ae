/*
 * crypto_pkey.h: public keys from PEM, DER and JWK members, and which of them are fit to verify with.
 *
 * Owns the policy: Ed25519, EC on P-256, RSA of 2048 to 8192 bits with a sane exponent; nothing else gets
 * in, and the kind of the key alone decides the algorithm. Knows no Lua: no function here can raise, so
 * each frees what it made before it returns. Errors stay in OpenSSL's queue for the caller to report;
 * `*why` is set when the policy, not OpenSSL, says no. Self-contained, used by one module.
 */
#ifndef ATELIER_CRYPTO_PKEY_H
#define ATELIER_CRYPTO_PKEY_H

#include <limits.h>
#include <string.h>

#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

enum pkey_kind { PKEY_REFUSED = 0, PKEY_ED25519 = 1, PKEY_P256 = 2, PKEY_RSA = 3 };

enum {
    PKEY_RSA_MIN_BITS = 2048,
    PKEY_RSA_MAX_BITS = 8192,  /* verification grows with the square: a hostile JWKS must not stall a front */
    PKEY_EXPONENT_MAX_BITS = 64,
    PKEY_DER_MAX = 64 * 1024,
    PKEY_RAW_SIGNATURE = 64,   /* r and s of P-256 */
    PKEY_DER_SIGNATURE = 72,   /* the most that those two take in DER */
};

/* The JWS name of the one algorithm that a kind of key verifies. */
static const char *pkey_algorithm(enum pkey_kind kind)
{
    switch (kind) {
    case PKEY_ED25519:
        return "EdDSA";
    case PKEY_P256:
        return "ES256";
    case PKEY_RSA:
        return "RS256";
    case PKEY_REFUSED:
        break;
    }
    return "none";
}

/* ==== policy =================================================================================== */

/* An exponent of 1 makes every message its own signature; an even one or a giant one is a trap as well. */
static int pkey_exponent_sane(const EVP_PKEY *pkey)
{
    BIGNUM *e = NULL;
    const int got = EVP_PKEY_get_bn_param(pkey, OSSL_PKEY_PARAM_RSA_E, &e) == 1;
    const int sane = got && BN_is_odd(e) && !BN_is_one(e) && BN_num_bits(e) <= PKEY_EXPONENT_MAX_BITS;

    BN_free(e);
    return sane;
}

static enum pkey_kind pkey_classify_rsa(const EVP_PKEY *pkey, const char **why)
{
    const int bits = EVP_PKEY_get_bits(pkey);

    if (bits < PKEY_RSA_MIN_BITS || bits > PKEY_RSA_MAX_BITS) {
        *why = "an RSA key must have 2048 to 8192 bits";
        return PKEY_REFUSED;
    }
    if (!pkey_exponent_sane(pkey)) {
        *why = "the RSA exponent is unsafe";
        return PKEY_REFUSED;
    }
    return PKEY_RSA;
}

/* The curve counts by name only: explicit parameters may carry a generator of the attacker's choice. */
static enum pkey_kind pkey_classify_ec(EVP_PKEY *pkey, const char **why)
{
    char group[32];
    size_t n = 0;
    EVP_PKEY_CTX *check;
    int valid;

    if (EVP_PKEY_get_group_name(pkey, group, sizeof group, &n) != 1 || strcmp(group, "prime256v1") != 0) {
        *why = "the only EC curve taken is P-256";
        return PKEY_REFUSED;
    }
    check = EVP_PKEY_CTX_new_from_pkey(NULL, pkey, NULL);
    valid = check != NULL && EVP_PKEY_public_check(check) == 1;
    EVP_PKEY_CTX_free(check);
    if (!valid)
        *why = "the point is not a public key of P-256";
    return valid ? PKEY_P256 : PKEY_REFUSED;
}

static enum pkey_kind pkey_classify(EVP_PKEY *pkey, const char **why)
{
    if (EVP_PKEY_is_a(pkey, "ED25519"))
        return PKEY_ED25519;
    if (EVP_PKEY_is_a(pkey, "EC"))
        return pkey_classify_ec(pkey, why);
    if (EVP_PKEY_is_a(pkey, "RSA"))
        return pkey_classify_rsa(pkey, why);
    *why = "the only keys taken are Ed25519, EC P-256 and RSA";
    return PKEY_REFUSED;
}

/* ==== import =================================================================================== */

/* A SubjectPublicKeyInfo that fills all of `der`. */
static EVP_PKEY *pkey_from_der(const unsigned char *der, size_t len, const char **why)
{
    const unsigned char *p = der;
    EVP_PKEY *pkey;

    if (len > PKEY_DER_MAX) {
        *why = "the key is too long";
        return NULL;
    }
    pkey = d2i_PUBKEY_ex(NULL, &p, (long)len, NULL, NULL);
    if (pkey != NULL && p != der + len) {
        *why = "there is something behind the key";
        EVP_PKEY_free(pkey);
        return NULL;
    }
    return pkey;
}

/* Whether nothing but white space is left to read. */
static int pkey_bio_ended(BIO *bio)
{
    char c;

    while (BIO_read(bio, &c, 1) == 1)
        if (strchr(" \t\r\n", c) == NULL || c == '\0')
            return 0;
    return 1;
}

/*
 * Reads the block itself rather than through PEM_read_bio_PUBKEY, which would ask for a pass phrase on the
 * terminal when the block claims to be encrypted.
 */
static EVP_PKEY *pkey_from_pem(const char *text, size_t len, const char **why)
{
    BIO *const bio = len <= PKEY_DER_MAX ? BIO_new_mem_buf(text, (int)len) : NULL;
    char *name = NULL;
    char *header = NULL;
    unsigned char *data = NULL;
    long size = 0;
    EVP_PKEY *pkey = NULL;

    if (bio == NULL || PEM_read_bio(bio, &name, &header, &data, &size) != 1)
        *why = len <= PKEY_DER_MAX ? "there is no PEM block" : "the key is too long";
    else if (strcmp(name, "PUBLIC KEY") != 0)
        *why = "the PEM block is not a PUBLIC KEY";
    else if (header[0] != '\0' || !pkey_bio_ended(bio))
        *why = "there is more than one plain PEM block";
    else
        pkey = pkey_from_der(data, (size_t)size, why);
    OPENSSL_free(name);
    OPENSSL_free(header);
    OPENSSL_clear_free(data, (size_t)size); /* a private key may have come here by mistake */
    BIO_free(bio);
    return pkey;
}

static EVP_PKEY *pkey_from_params(const char *type, OSSL_PARAM *params)
{
    EVP_PKEY_CTX *const ctx = EVP_PKEY_CTX_new_from_name(NULL, type, NULL);
    EVP_PKEY *pkey = NULL;

    if (ctx == NULL || EVP_PKEY_fromdata_init(ctx) != 1 ||
        EVP_PKEY_fromdata(ctx, &pkey, EVP_PKEY_PUBLIC_KEY, params) != 1) {
        EVP_PKEY_free(pkey);
        pkey = NULL;
    }
    EVP_PKEY_CTX_free(ctx);
    return pkey;
}

static EVP_PKEY *pkey_from_p256(const unsigned char x[32], const unsigned char y[32])
{
    static char group[] = "prime256v1";
    unsigned char point[65] = {4}; /* uncompressed */
    OSSL_PARAM params[3];

    memcpy(point + 1, x, 32);
    memcpy(point + 33, y, 32);
    params[0] = OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, group, 0);
    params[1] = OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY, point, sizeof point);
    params[2] = OSSL_PARAM_construct_end();
    return pkey_from_params("EC", params);
}

/* Both numbers are big-endian; the caller has bounded their lengths. */
static EVP_PKEY *pkey_from_rsa(const unsigned char *n, size_t n_len, const unsigned char *e, size_t e_len)
{
    OSSL_PARAM_BLD *const build = OSSL_PARAM_BLD_new();
    BIGNUM *const modulus = BN_bin2bn(n, (int)n_len, NULL);
    BIGNUM *const exponent = BN_bin2bn(e, (int)e_len, NULL);
    OSSL_PARAM *params = NULL;
    EVP_PKEY *pkey = NULL;

    if (build != NULL && modulus != NULL && exponent != NULL &&
        OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_N, modulus) == 1 &&
        OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_E, exponent) == 1)
        params = OSSL_PARAM_BLD_to_param(build);
    if (params != NULL)
        pkey = pkey_from_params("RSA", params);
    OSSL_PARAM_free(params);
    BN_free(exponent);
    BN_free(modulus);
    OSSL_PARAM_BLD_free(build);
    return pkey;
}

static EVP_PKEY *pkey_from_ed25519(const unsigned char x[32])
{
    return EVP_PKEY_new_raw_public_key_ex(NULL, "ED25519", NULL, x, 32);
}

/* ==== signatures =============================================================================== */

/* JWS writes an ECDSA signature as r and s, 32 bytes each; OpenSSL wants DER. Returns its length, 0 on failure. */
static size_t pkey_raw_to_der(const unsigned char raw[PKEY_RAW_SIGNATURE], unsigned char der[PKEY_DER_SIGNATURE])
{
    ECDSA_SIG *const sig = ECDSA_SIG_new();
    BIGNUM *r = BN_bin2bn(raw, 32, NULL);
    BIGNUM *s = BN_bin2bn(raw + 32, 32, NULL);
    unsigned char *p = der;
    int n = 0;

    if (sig != NULL && r != NULL && s != NULL && ECDSA_SIG_set0(sig, r, s) == 1) {
        r = NULL; /* now the signature's */
        s = NULL;
        n = i2d_ECDSA_SIG(sig, &p);
    }
    BN_free(s);
    BN_free(r);
    ECDSA_SIG_free(sig);
    return n > 0 ? (size_t)n : 0;
}

/* Want of memory says nothing about a key or a signature, so it must not pass for a verdict. */
static int pkey_starved(void)
{
    return ERR_GET_REASON(ERR_peek_error()) == ERR_R_MALLOC_FAILURE;
}

/*
 * 1: good, 0: bad, -1: could not be tried. A signature of the wrong form is a bad one. `scratch` is left empty.
 */
static int pkey_verify(EVP_MD_CTX *scratch, const EVP_MD *sha256, EVP_PKEY *pkey, enum pkey_kind kind,
                       const unsigned char *message, size_t len, const unsigned char *sig, size_t sig_len)
{
    unsigned char der[PKEY_DER_SIGNATURE];
    int good = -1;

    if (kind == PKEY_P256) {
        if (sig_len != PKEY_RAW_SIGNATURE)
            return 0;
        sig_len = pkey_raw_to_der(sig, der);
        sig = der;
        if (sig_len == 0)
            return -1;
    }
    if (EVP_DigestVerifyInit(scratch, NULL, kind == PKEY_ED25519 ? NULL : sha256, NULL, pkey) == 1)
        good = EVP_DigestVerify(scratch, sig, sig_len, message, len) == 1;
    if (good == 0 && pkey_starved())
        good = -1;
    EVP_MD_CTX_reset(scratch);
    return good;
}

#endif
