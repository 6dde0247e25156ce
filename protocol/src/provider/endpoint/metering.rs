//! Which calls cost, and in which form their answers state what they used.
//!
//! Invariant: every endpoint is named.

use super::Endpoint;
use crate::usage::Form;

/// Whether a call costs, and where its answer states how much was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metering {
    /// It costs nothing: no hold, no bill.
    Free,
    /// What it used stands in an answer of this form.
    Metered(Form),
}

impl Endpoint {
    /// Whether a call costs, and where its answer states how much was used.
    pub const fn metering(self) -> Metering {
        Metering::Metered(match self {
            Self::OpenAiModels
            | Self::OpenAiModel
            | Self::AzureModels
            | Self::AnthropicModels
            | Self::AnthropicModel
            | Self::AnthropicCountTokens
            | Self::DeepSeekModels
            | Self::DeepSeekModel => return Metering::Free,
            Self::OpenAiChat
            | Self::OpenAiCompletions
            | Self::AzureDeploymentChat
            | Self::AzureChat
            | Self::AzureDeploymentCompletions
            | Self::AzureCompletions => Form::Completions,
            Self::DeepSeekChat | Self::DeepSeekBetaChat | Self::DeepSeekBetaCompletions => Form::DeepSeekCompletions,
            Self::OpenAiResponses | Self::AzurePreviewResponses | Self::AzureResponses => Form::Responses,
            Self::OpenAiEmbeddings | Self::AzureDeploymentEmbeddings | Self::AzureEmbeddings => Form::Embeddings,
            Self::OpenAiImages
            | Self::OpenAiImageEdits
            | Self::AzureDeploymentImages
            | Self::AzureDeploymentImageEdits
            | Self::AzureImages
            | Self::AzureImageEdits => Form::Images,
            Self::OpenAiSpeech | Self::AzureDeploymentSpeech | Self::AzureSpeech => Form::Speech,
            Self::OpenAiTranscriptions
            | Self::OpenAiTranslations
            | Self::AzureDeploymentTranscriptions
            | Self::AzureDeploymentTranslations
            | Self::AzureTranscriptions
            | Self::AzureTranslations => Form::Transcription,
            Self::OpenAiRealtime | Self::AzurePreviewRealtime | Self::AzureRealtime => Form::Realtime,
            Self::AnthropicMessages | Self::DeepSeekMessages => Form::Messages,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_hub_answers_itself_and_counts_of_tokens_are_free() {
        for endpoint in Endpoint::ALL {
            let is_free = endpoint.served_by_hub() || *endpoint == Endpoint::AnthropicCountTokens;
            assert_eq!(endpoint.metering() == Metering::Free, is_free, "{endpoint:?}");
        }
    }
}
